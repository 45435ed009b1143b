"""The scripts that run on the machine that takes a copy; :mod:`custody.minidvodb.far` is their only user.

Each gets the directory, the database's name and the name of the staging directory as ``$1``, ``$2``, ``$3``, and what
it needs besides after them. Their exit statuses from 66 on have a meaning of their own.
"""

from __future__ import annotations

INCOMING, PRIVATE = ".incoming", ".custody"

MISSING, FOREIGN, CHANGED, TAKEN, GONE, INSIDE = 66, 67, 68, 69, 70, 71

C_LOCALE = "export LC_ALL=C\n"
"""In front of each: names are bytes, and complaints are in the words that are known here."""

# Ends whoever wrote into this staging directory before: the transfer of a worker that was killed may still run here.
# A process group that lives keeps its number from being used again, even when its leader is gone.
END_WRITER = """
end_writer() {
  [ -r "$1" ] || return 0
  while read -r group start; do end_group "$group" "$start"; done <"$1"
}
end_group() {
  case $group in ''|0|1|*[!0-9]*) return 0 ;; esac
  if [ -e "/proc/$group/stat" ]; then
    read -r line <"/proc/$group/stat" 2>/dev/null || line=
    set -- end ${line##*)}
    [ "${21:-}" = "$start" ] || return 0
  fi
  read -r line <"/proc/$$/stat"
  set -- end ${line##*)}
  [ "$4" != "$group" ] || return 0  # the shell that this runs in wrote before
  for try in 1 2 3 4 5 6 7 8 9 10; do
    kill -0 "-$group" 2>/dev/null || return 0
    if [ "$try" -lt 5 ]; then kill -TERM "-$group" 2>/dev/null; else kill -KILL "-$group" 2>/dev/null; fi
    sleep 0.2
  done
  for stat in /proc/[0-9]*/stat; do
    read -r line <"$stat" 2>/dev/null || continue
    set -- end ${line##*)}
    if [ "$4" = "$group" ] && [ "$2" != Z ]; then
      echo "custody: the process group $group still writes" >&2
      exit 1
    fi
  done
}
"""

ENTER = f"""
cd -P -- "$1" || exit {MISSING}
for name in {INCOMING} {PRIVATE}; do
  [ -d "$name" ] || mkdir -p -- "$name" || exit 1
  if [ -h "$name" ] || [ ! -O "$name" ]; then echo "custody: $name is a link or is not ours" >&2; exit {FOREIGN}; fi
done
disks=$(stat --printf='%d ' -- . {INCOMING} {PRIVATE})
disk=${{disks%% *}}
if [ "$disks" != "$disk $disk $disk " ]; then
  echo "custody: {INCOMING} or {PRIVATE} is on another disk" >&2
  exit {FOREIGN}
fi
: >"{INCOMING}/.$3.probe" || exit 1
rm -f -- "{INCOMING}/.$3.probe"
"""

LIST = r"""find . -printf '%y %s %T@ %C@ %i %m %P\0%l\0'"""
MARK = r"""find . -mindepth 1 -printf '%y %s %T@ %C@ %i %m %P\0%l\0' | sort -z | sha256sum | cut -c1-64"""
"""The fingerprint of a directory; :func:`far_answers.mark_of` makes the same of what LIST prints."""

WHERE = f"""
machine=; read -r machine 2>/dev/null </etc/machine-id; echo "machine=${{machine:-$(hostname)}}"
facts=$(stat -f -c '%i %S %b %f %a %c %d' .)
echo "filesystem=${{facts%% *}}"
echo "space=${{facts#* }}"
case ${{facts%% *}} in *[1-9a-f]*) ;; *) echo "source=$(df -P . 2>/dev/null | tail -n 1 | cut -d' ' -f1)" ;; esac
if [ -h "$2" ]; then echo target=link
elif [ -d "$2" ]; then echo target=directory; echo "inode=$(stat -c %d:%i -- "./$2")"
elif [ -e "$2" ]; then echo target=other; else echo target=none; fi
if [ -h "{INCOMING}/$3" ]; then echo staging=link
elif [ -d "{INCOMING}/$3" ]; then echo staging=directory; else echo staging=none; fi
"""

TOOLS = """
for tool in rsync tar; do command -v "$tool" >/dev/null && echo "$tool=yes"; done
case $(rsync --version 2>/dev/null) in *xxh128*) echo xxh128=yes ;; esac
"""

SEE = f"""
cd -P -- "$1" || exit {MISSING}
{WHERE}
echo .
"""

# Nothing is made inside of the database itself: it is known by device and inode, on the machine that it lies on.
REFUSE_INSIDE = f"""
cd -P -- "$1" || exit {MISSING}
machine=; read -r machine 2>/dev/null </etc/machine-id; machine=${{machine:-$(hostname)}}
if [ -n "$5" ] && [ "$machine" = "$4" ]; then
  up=. above=. rest=$PWD
  while [ -n "$rest" ]; do above=$above/..; up="$up $above"; rest=${{rest%/*}}; done
  for found in $(stat -c %d:%i $up); do [ "$found" != "$5" ] || exit {INSIDE}; done
fi
"""

PROBE = f"""{REFUSE_INSIDE}{ENTER}{WHERE}{TOOLS}
echo .
if [ -d "{INCOMING}/$3" ] && [ ! -h "{INCOMING}/$3" ]; then cd -- "{INCOMING}/$3" && {LIST}; fi
"""

OPEN = f"""{END_WRITER}{ENTER}
end_writer "{INCOMING}/.$3.group" || exit 1
[ ! -e "{INCOMING}/.$3.group" ] || rm -f -- "{INCOMING}/.$3.group"
if [ -h "{INCOMING}/$3" ]; then echo "custody: $3 is a link" >&2; exit {FOREIGN}; fi
if [ -d "{INCOMING}/$3" ]; then find "{INCOMING}/$3" -type d ! -perm -u=rwx -exec chmod u+rwx '{{}}' + || exit 1
else mkdir -- "{INCOMING}/$3" || exit 1; fi
{WHERE}
echo .
cd -- "{INCOMING}/$3" && {LIST}
"""

END = f"""{END_WRITER}
cd -P -- "$1" || exit {MISSING}
end_writer "{INCOMING}/.$3.group"
"""

# In front of whatever writes: adds its process group to those that write, so that they can be ended, by whom ever.
WRITER = f"""
cd -P -- "$1" || exit {MISSING}
stage=$3; shift 3
nth() {{ shift "$1"; echo "$1"; }}
read -r line <"/proc/$$/stat"; group=$(nth 3 ${{line##*)}})
read -r line <"/proc/$group/stat" || exit 1
echo "$group $(nth 20 ${{line##*)}})" >>"{INCOMING}/.$stage.group" || exit 1
cd -- "{INCOMING}/$stage" || exit {MISSING}
exec "$@"
"""

REMOVE = f"""
cd -P -- "$1/{INCOMING}/$3" || exit {MISSING}
exec xargs -0 -r rm -rf --
"""

SAVE = f"""
cd -P -- "$1" || exit {MISSING}
[ -d {PRIVATE} ] || mkdir -- {PRIVATE}; cd -P -- {PRIVATE} || exit 1
cat >".$3.tmp" && sync -- ".$3.tmp" && mv -f -T -- ".$3.tmp" "$4.manifest"
"""

READ = f"""
cd -P -- "$1" || exit {MISSING}
[ -d {PRIVATE} ] || exit 0
cd -P -- {PRIVATE} || exit 1
for name in "$3.manifest" "$2.manifest"; do
  if [ -f "$name" ] && [ ! -h "$name" ]; then exec cat -- "$name"; fi
done
"""

XXH128 = "rsync -rlnc --checksum-choice=xxh128 --out-format='%C %n' -- ./ \"$PWD/.custody-nowhere-$$/\" || exit 1"
SHA256 = "find . -type f -print0 | sort -z | xargs -0 -r sha256sum -z"

PROVE = f"""
cd -P -- "$1" || exit {MISSING}
[ -d "$4" ] && [ ! -h "$4" ] || exit {GONE}
manifest={PRIVATE}/$3.manifest
[ -f "$manifest" ] || manifest={PRIVATE}/$2.manifest
if [ -f "$manifest" ] && [ ! -h "$manifest" ]; then stat -c %s -- "$manifest"; cat -- "$manifest"; else echo 0; fi
cd -P -- "$4" || exit {MISSING}
{LIST}
printf '= 0 0 0 \\0\\0'
@digests@
printf '\\0'
{MARK}
"""

GLANCE = f"""
cd -P -- "$1" || exit {MISSING}
[ -d "$2" ] && [ ! -h "$2" ] || exit {GONE}
cd -P -- "./$2" && {MARK}
"""

PUBLISH = f"""{END_WRITER}
cd -P -- "$1" || exit {MISSING}
end_writer "{INCOMING}/.$3.group" || exit 1
mark() {{ (cd -P -- "$1" && {MARK}); }}
if [ ! -d "{INCOMING}/$3" ] || [ -h "{INCOMING}/$3" ]; then
  [ -d "$2" ] && [ ! -h "$2" ] || exit {GONE}
  [ "$(mark "./$2")" = "$4" ] || exit {TAKEN}
  echo already
else
  [ "$(mark "{INCOMING}/$3")" = "$4" ] || exit {CHANGED}
  sync -f -- "{INCOMING}/$3" || exit 1
  if [ -e "$2" ] || [ -h "$2" ]; then
    [ "$5" = replace ] || exit {TAKEN}
    mv -T -- "./$2" "{PRIVATE}/$3.set-aside.$$" || exit 1
  fi
  mv -n -T -- "{INCOMING}/$3" "./$2" || exit 1
  if [ -d "{INCOMING}/$3" ]; then exit {TAKEN}; fi
  echo renamed
fi
sync -- . {INCOMING} {PRIVATE} || exit 1
rm -f -- "{INCOMING}/.$3.group"
mv -f -T -- "{PRIVATE}/$3.manifest" "{PRIVATE}/$2.manifest" 2>/dev/null
sync -- {PRIVATE}
exit 0
"""

# A copy that is to be deleted is first taken out of sight by one rename, with a mark in it: whoever still sees it under
# another name sees the mark. What a kill left of that is put back; what was let go is deleted to the end.
RETIRING = f"""
cd -P -- "$1" || exit {MISSING}
note={PRIVATE}/$3.retiring aside={PRIVATE}/$3.retired gone={PRIVATE}/$3.deleted
mark=; [ -f "$note" ] && read -r mark <"$note"
"""

SET_ASIDE = f"""{ENTER}{RETIRING}
if [ -h "$2" ]; then echo "custody: $2 is a link" >&2; exit {FOREIGN}; fi
[ -d "$2" ] || exit {GONE}
echo "$4" >"$note" && sync -- "$note" || exit 1
mv -T -- "./$2" "$aside" || exit 1
: >"$aside/$4" && : >"{PRIVATE}/$4" || exit 1
sync -- . {PRIVATE}
"""

_PUT_BACK = f"""{RETIRING}
if [ -z "$mark" ]; then echo nothing; exit 0; fi
if [ -d "$aside" ]; then
  rm -f -- "$aside/$mark" "{PRIVATE}/$mark" && mv -n -T -- "$aside" "./$2" || exit 1
  if [ -d "$aside" ]; then exit {TAKEN}; fi
  sync -- . {PRIVATE}
fi
if [ -d "$2" ]; then rm -f -- "$note"; echo back; exit 0; fi
"""

_LET_GO = f"""{RETIRING}
[ -n "$mark" ] || exit {GONE}
if [ -d "$aside" ]; then mv -T -- "$aside" "$gone" && sync -- {PRIVATE} || exit 1; fi
"""

_TO_THE_END = f"""
if [ -d "$gone" ]; then chmod -R u+rwX -- "$gone" && rm -rf -- "$gone" || exit 1; fi
rm -f -- "{PRIVATE}/$2.manifest" "{PRIVATE}/$mark"
echo deleted
"""

PUT_BACK, DELETE = _PUT_BACK + _TO_THE_END, _LET_GO + _TO_THE_END

FORGET = f"""{RETIRING}
rm -f -- "$note"
"""

HAS_MARK = f"""
cd -P -- "$1" || exit {MISSING}
if [ -e "{PRIVATE}/$4" ] || [ -e "./$2/$4" ]; then echo yes; fi
"""

MAKE_MARK = f"""{ENTER}
: >"{PRIVATE}/$4"
"""

DROP_MARK = f"""
cd -P -- "$1" || exit {MISSING}
rm -f -- "{PRIVATE}/$4"
"""

CLEAR = f"""{END_WRITER}
cd -P -- "$1" || exit {MISSING}
end_writer "{INCOMING}/.$3.group" || exit 1
if [ -d "{INCOMING}/$3" ] && [ ! -h "{INCOMING}/$3" ]; then
  chmod -R u+rwX -- "{INCOMING}/$3" && rm -rf -- "{INCOMING}/$3" || exit 1
fi
rm -f -- "{INCOMING}/.$3.group" "{PRIVATE}/$3.manifest"
"""
