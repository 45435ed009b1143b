"""Verify: read every byte over there, and compare with the manifest of what was read here."""

from __future__ import annotations

import os
import time

from custody import gate
from custody.faults import FaultKind
from custody.ledger.store import now
from custody.minidvodb.codes import CopyFault, FaultCode
from custody.minidvodb.far import Far, Proof
from custody.minidvodb.manifest import Manifest, describe, differences, sha256_of
from custody.minidvodb.records import CopyStep
from custody.minidvodb.step import Work, copy_step
from custody.minidvodb.transfer import send, turn


@copy_step("verify", needs=CopyStep.SENT, makes=CopyStep.VERIFIED)
def verify(work: Work) -> None:
    """Prove the staged copy. What arrived wrong is thrown away and sent once more; then it is a fault.

    Faults: VERIFY.
    """
    far = work.far()
    found = compare(work, far)
    if found:
        work.back_to = CopyStep.CHECKED
        work.detail |= {"sent_again": len(found), "because": describe(found)}
        far.remove_staged(sorted(found, reverse=True))
        with turn(work):
            send(work)
        found = compare(work, far)
    if found:
        far.remove_staged(sorted(found, reverse=True))
        raise CopyFault(
            FaultCode.VERIFY,
            far.where,
            f"what arrived is not what was sent, twice: {describe(found)}",
            kind=FaultKind.DATA,
            next_command="check the disk and memory of that machine; the next runs send it again",
        )


def compare(work: Work, far: Far) -> dict[bytes, str]:
    """What of the staged directory is not as the manifest says; where nothing is, the step's values are set."""
    began = time.monotonic()
    facts = {**work.copy.row, **work.values}
    proof = far.prove(facts["bytes"], facts["algorithm"])
    if proof is None:
        work.back_to = CopyStep.CHECKED
        raise CopyFault(FaultCode.VERIFY, far.where, "the staged copy is gone", kind=FaultKind.DATA)
    manifest = believed(work, far, proof.manifest, facts["manifest_sha256"])
    found = differences(manifest, proof.entries, proof.digests)
    if not found:
        demand_publishable(far, manifest, proof)
        check_by_program(work, far)
        took_s = time.monotonic() - began
        work.values |= {"fingerprint": proof.fingerprint, "verify_s": took_s, "verified_at": now()}
    return found


def demand_publishable(far: Far, manifest: Manifest, proof: Proof) -> None:
    """Ask the gate. Faults: VERIFY."""
    names = [os.fsdecode(path) for path in manifest.entries]
    there = [os.fsdecode(path) for path in proof.entries if path in manifest.entries]
    foreign = [os.fsdecode(path) for path in proof.entries.keys() - manifest.entries.keys()]
    verdict = gate.may_publish(names, there, foreign)
    if not verdict.allowed:
        raise CopyFault(FaultCode.VERIFY, far.where, str(verdict))


def check_by_program(work: Work, far: Far) -> None:
    """Run the destination's own check (dvoverify) on the staged copy, where it has one. Faults: VERIFY."""
    program = work.copy.destination.settings.dvoverify
    if program:
        done = far.host.run([program, str(far.staging)], timeout_s=6 * 3600)
        if done.returncode:
            raise CopyFault(
                FaultCode.VERIFY,
                far.where,
                f"{program} does not accept it",
                kind=FaultKind.DATA,
                exit_status=done.returncode,
                stderr_tail=(done.stdout.decode("utf-8", "replace") + done.stderr_tail)[-2000:],
            )


def believed(work: Work, far: Far, text: bytes, expected: str) -> Manifest:
    """The manifest beside the data, believed only where it is the one on record. Faults: VERIFY."""
    if sha256_of(text) != expected:
        work.back_to = CopyStep.CHECKED
        reason = "the manifest beside it is not the one on record" if text else "the manifest beside it is gone"
        raise CopyFault(FaultCode.VERIFY, far.where, reason, kind=FaultKind.DATA, next_command="it is copied again")
    return Manifest.parse(text, far.where)
