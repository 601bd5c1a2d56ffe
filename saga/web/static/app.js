// Everything works without it; with it pages stay fresh, keys work, and lines can be copied. What it puts into a page is
// what the server rendered for the same address, or text.
(function () {
  "use strict";
  const root = document.documentElement;
  const stored = { get: (name) => { try { return localStorage.getItem(name); } catch { return null; } },
                   set: (name, value) => { try { localStorage.setItem(name, value); } catch { /* a private window */ } } };

  // ---- light and dark: before anything is drawn
  const THEMES = ["auto", "light", "dark"];
  function theme(name) {
    if (name === "auto") delete root.dataset.theme; else root.dataset.theme = name;
    const button = document.getElementById("theme");
    if (button) button.textContent = "Theme: " + name;
  }
  let chosen = THEMES.includes(stored.get("choreo-theme")) ? stored.get("choreo-theme") : "auto";
  theme(chosen);

  function say(text) { document.getElementById("said").textContent = text; }

  // ---- fresh pages
  const LOOK_EVERY = 10000, LEAST_PAUSE = 700;
  let source = null, tookLast = 0, paused = false, waiting = null, looking = false, again = false, last = 0;

  function state(word) {
    const place = document.getElementById("link");
    place.dataset.state = word;
    place.textContent = { live: "live", paused: "paused", away: "not connected, looking now and then" }[word];
  }

  function wanted(ids) {
    const one = document.querySelector("main").dataset.saga;
    return !ids || !one || ids.includes(one);
  }

  function soon() {
    if (waiting || paused || document.hidden) return;
    waiting = setTimeout(() => { waiting = null; look(); }, Math.max(0, last + LEAST_PAUSE + 5 * tookLast + Math.random() * 300 - Date.now()));
  }

  async function look() {
    if (looking) { again = true; return; }
    looking = true;
    const began = Date.now();
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, redirect: "error" });
      if (answer.ok) swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch { /* the next look may succeed */ }
    last = Date.now();
    tookLast = last - began;  // a server that is slow is asked less often
    looking = false;
    if (again) { again = false; soon(); }
  }

  function busy(part) {
    const active = document.activeElement;
    return (part.contains(active) && active.matches("input, textarea, select")) ||
      [...part.querySelectorAll("input:not([type=hidden]), textarea")].some((field) => field.value !== field.defaultValue);
  }

  function swap(fresh) {
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.querySelector(`[data-live="${CSS.escape(part.dataset.live)}"]`);
      if (!other || other.innerHTML === part.innerHTML || busy(part)) continue;
      const active = part.contains(document.activeElement) ? document.activeElement : null;
      const href = active && active.getAttribute("href"), id = active && active.id;
      const opened = [...part.querySelectorAll("details[open][id]")].map((each) => each.id);
      const before = word(part), stood = states(part);
      part.replaceChildren(...other.childNodes);
      for (const name of opened) { const each = document.getElementById(name); if (each) each.open = true; }
      if (active) {
        const same = (id && document.getElementById(id)) ||
          (href && part.querySelector(`a[href="${CSS.escape(href)}"]`)) || null;
        if (same) same.focus({ preventScroll: true });
      }
      part.classList.toggle("fresh", stood !== states(part));  // a time that went on is no news
      const after = word(part);
      if (after && after !== before) say(after);
    }
  }

  function states(part) {
    return [...part.querySelectorAll(".state, [data-id]")].map((each) => each.dataset.id || each.textContent).join();
  }

  function word(part) {
    const heading = part.querySelector("h1");
    return heading ? heading.textContent.trim().replace(/\s+/g, " ") : "";
  }

  function connect() {
    if (source) source.close();
    source = new EventSource(root.dataset.feed);
    source.addEventListener("hello", () => { state("live"); soon(); });
    source.addEventListener("changed", (event) => { if (wanted(JSON.parse(event.data).ids)) soon(); });
    source.addEventListener("error", () => {
      state("away");
      if (source.readyState === EventSource.CLOSED) setTimeout(() => { if (!paused) connect(); }, 15000);
    });
  }

  function pause() {
    paused = !paused;
    const button = document.getElementById("pause");
    button.setAttribute("aria-pressed", String(paused));
    button.textContent = paused ? "Go on" : "Pause";
    if (paused) { source.close(); state("paused"); } else { connect(); }
  }

  // ---- keys
  let before = "";
  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || stored.get("choreo-keys") === "off") return;
    if (event.target.closest("input, textarea, select, dialog")) return;
    const pressed = before ? `${before} ${event.key}` : event.key;
    before = "";
    if (event.key === "g" && pressed === "g") { before = "g"; setTimeout(() => { before = ""; }, 1500); return; }
    if (pressed === "/") {
      const first = document.querySelector("#filters select, #filters input");
      if (first) { event.preventDefault(); first.focus(); }
    } else if (pressed === "j" || pressed === "k") {
      rows(pressed === "j" ? 1 : -1);
    } else {
      const found = document.querySelector(`[data-key="${CSS.escape(pressed)}"]`);
      if (found) { event.preventDefault(); found.click(); }
    }
  }

  function rows(step) {
    const links = [...document.querySelectorAll("main .list tbody th a, main .card h2 a")];
    const at = links.findIndex((each) => each === document.activeElement || each.closest("tr, article").contains(document.activeElement));
    const next = links[at < 0 ? (step > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, at + step))];
    if (next) next.focus();
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const field = document.createElement("textarea");  // an address without https has no clipboard
      field.value = text;
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    say("copied: " + text);
  }

  document.addEventListener("DOMContentLoaded", () => {
    theme(chosen);
    const by = (id) => document.getElementById(id);
    for (const id of ["theme", "keys"]) by(id).hidden = false;
    by("theme").addEventListener("click", () => {
      chosen = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length];
      stored.set("choreo-theme", chosen);
      theme(chosen);
    });
    by("keys").addEventListener("click", () => by("help").showModal());
    by("keys-on").checked = stored.get("choreo-keys") !== "off";
    by("keys-on").addEventListener("change", (event) => stored.set("choreo-keys", event.target.checked ? "on" : "off"));
    document.addEventListener("keydown", key);
    document.addEventListener("click", (event) => {
      const button = event.target.closest(".copy");
      if (button) copy(button.dataset.copy);
    });
    const filters = by("filters");
    if (filters) filters.addEventListener("submit", () => {  // an address without empty values can be read
      for (const field of filters.elements) if (field.name && !field.value) field.disabled = true;
    });
    if (root.dataset.feed) {
      by("pause").hidden = false;
      by("pause").addEventListener("click", pause);
      document.addEventListener("visibilitychange", soon);
      setInterval(soon, LOOK_EVERY);
      connect();
    }
  });
})();
