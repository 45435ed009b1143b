// Three small things: follow the theme of the frame, copy commands, stay fresh without losing what somebody types.
"use strict";

(function followTheme() {
  try {
    const outer = window.parent !== window && window.parent.document.documentElement;
    if (!outer) return;
    const apply = () => {
      const named = outer.classList.contains("dark") ? "dark" : outer.classList.contains("light") ? "light" : "";
      if (named) document.documentElement.dataset.theme = named;
    };
    apply();
    new MutationObserver(apply).observe(outer, { attributes: true, attributeFilter: ["class"] });
  } catch { /* a frame of another origin: the preference of the system holds */ }
})();

document.addEventListener("DOMContentLoaded", () => {
  const showCopyButtons = () => document.querySelectorAll("button.copy").forEach((button) => { button.hidden = false; });
  showCopyButtons();

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy");
    if (!button) return;
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch { // no clipboard without https: select it, so that one key copies it
      window.getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });

  const seconds = Number(document.getElementById("main").dataset.live || 0);
  if (!seconds) return;

  const isInUse = () => document.hidden || !window.getSelection().isCollapsed
    || Boolean(document.activeElement && document.activeElement.closest("main form"));

  async function refresh() {
    if (isInUse()) return;
    try {
      const answer = await fetch(window.location.href, { credentials: "same-origin", headers: { Accept: "text/html" } });
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const main = document.getElementById("main");
      const opened = new Map([...main.querySelectorAll("details[id]")].map((each) => [each.id, each.open]));
      fresh.querySelectorAll("#main details[id]").forEach((each) => {
        if (opened.has(each.id)) each.open = opened.get(each.id);
      });
      main.replaceChildren(...fresh.getElementById("main").childNodes);
      document.querySelector("footer time").replaceWith(fresh.querySelector("footer time"));
      document.getElementById("stale").hidden = true;
      showCopyButtons();
    } catch {
      document.getElementById("stale").hidden = false;
    }
  }
  setInterval(refresh, seconds * 1000);
});
