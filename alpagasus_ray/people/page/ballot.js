"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const { words: WORDS, languages: LANGUAGES, grounds: GROUNDS } = read("words");
  const DATA = read("data");
  const BALLOT = document.documentElement.dataset.ballot;
  const CHOICES = DATA.choices;
  // time without a key, a touch or a move of the mouse counts for so long at most
  const IDLE_MS = 60000;
  const $ = (id) => document.getElementById(id);

  let voter = null;
  let votes = {};
  let at = 0;
  let paused = false;
  let spentMs = 0;
  let seenAt = Date.now();
  let language = document.documentElement.lang;

  // ---- words -------------------------------------------------------------------------------------------------------
  const say = (name, values = {}) =>
    WORDS[language][name].replace(/\{(\w+)\}/g, (whole, key) => (key in values ? String(values[key]) : whole));
  const word = (name) => (DATA.form === "rate" && WORDS[language][name + "_rate"] ? name + "_rate" : name);
  const tell = (name) => { $("message").textContent = name ? say(name) : ""; };
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  const translate = () => {
    document.documentElement.lang = language;
    document.title = say(word("title"));
    for (const part of document.querySelectorAll("[data-word]")) part.textContent = say(word(part.dataset.word));
    $("keys").textContent = say("keys", { keys: DATA.keys.join(" ").toUpperCase() });
    $("question").textContent = say(word("question"), { least: CHOICES[0], most: CHOICES[CHOICES.length - 1] });
    if (voter !== null) show();
  };

  // ---- keeping -----------------------------------------------------------------------------------------------------
  const place = (name) => "ballot:" + BALLOT + ":" + name;
  const kept = (name) => {
    try {
      return localStorage.getItem(place(name));
    } catch {
      return null;
    }
  };
  const keep = () => {
    try {
      localStorage.setItem(place(voter), JSON.stringify(votes));
      localStorage.setItem(place(""), voter);
    } catch {
      tell("not_kept");
    }
  };

  // ---- sha-256, which file:// pages of some browsers have no crypto.subtle for --------------------------------------
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
  const fraction = (x) => ((x - Math.floor(x)) * 4294967296) | 0;
  const ROUND = primes.map((p) => fraction(Math.cbrt(p)));
  const START = primes.slice(0, 8).map((p) => fraction(Math.sqrt(p)));
  const turn = (x, by) => (x >>> by) | (x << (32 - by));
  const sha256 = (text) => {
    const bytes = new TextEncoder().encode(text);
    const blocks = Math.ceil((bytes.length + 9) / 64);
    const filled = new Uint8Array(blocks * 64);
    filled.set(bytes);
    filled[bytes.length] = 0x80;
    const view = new DataView(filled.buffer);
    view.setUint32(filled.length - 8, Math.floor(bytes.length / 536870912));
    view.setUint32(filled.length - 4, (bytes.length * 8) >>> 0);
    const hash = START.slice();
    const w = new Int32Array(64);
    for (let block = 0; block < blocks; block++) {
      for (let i = 0; i < 16; i++) w[i] = view.getInt32(block * 64 + i * 4);
      for (let i = 16; i < 64; i++) {
        const low = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ (w[i - 15] >>> 3);
        const high = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ (w[i - 2] >>> 10);
        w[i] = (w[i - 16] + low + w[i - 7] + high) | 0;
      }
      let [a, b, c, d, e, f, g, h] = hash;
      for (let i = 0; i < 64; i++) {
        const one = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + ROUND[i] + w[i]) | 0;
        const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
        [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
      }
      [a, b, c, d, e, f, g, h].forEach((x, i) => { hash[i] = (hash[i] + x) | 0; });
    }
    return hash.map((x) => (x >>> 0).toString(16).padStart(8, "0")).join("");
  };

  // ---- files -------------------------------------------------------------------------------------------------------
  const download = (name, text, type) => {
    const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const fileName = (what) => what + "-" + voter.replace(/[^\p{L}\p{N}_-]+/gu, "_");
  const layout = () => DATA.voters[voter];

  // each line's chain is the hash of the chain before it and of the line: a line changed, moved or taken out is noticed
  const exported = () => {
    const given = layout().filter(([slot]) => slot in votes);
    let chain = BALLOT;
    return given
      .map(([slot], i) => {
        const body = JSON.stringify({ ballot: BALLOT, voter, slot, ...votes[slot], line: i + 1, of: given.length });
        chain = sha256(chain + "\n" + body);
        return body.slice(0, -1) + ',"chain":"' + chain + '"}\n';
      })
      .join("");
  };
  const saved = () => {
    const state = JSON.stringify({ ballot: BALLOT, voter, votes });
    return JSON.stringify({ state, check: sha256(state) });
  };
  const load = async (file) => {
    let state;
    try {
      const whole = JSON.parse(await file.text());
      if (sha256(whole.state) !== whole.check) throw new Error("changed");
      state = JSON.parse(whole.state);
    } catch {
      tell("unreadable");
      return;
    }
    if (state.ballot !== BALLOT || !(state.voter in DATA.voters)) {
      tell("other_ballot");
      return;
    }
    voter = state.voter;
    votes = state.votes;
    keep();
    begin();
    tell("loaded");
  };

  // ---- voting ------------------------------------------------------------------------------------------------------
  const nextOpen = () => {
    const open = layout().findIndex(([slot]) => !(slot in votes));
    return open < 0 ? layout().length : open;
  };
  const choose = (choice) => {
    if (paused || at >= layout().length) return;
    tick();
    const [slot] = layout()[at];
    votes[slot] = {
      choice,
      grounds: GROUNDS.filter((name) => $("ground-" + name).checked),
      comment: $("comment").value.trim(),
      seconds: Math.round((((votes[slot] || {}).seconds || 0) + spentMs / 1000) * 10) / 10,
      at: new Date().toISOString(),
    };
    keep();
    at = nextOpen();
    spentMs = 0;
    tell("");
    show(true);
  };
  const undo = () => {
    if (paused) return;
    const end = at >= layout().length ? layout().length : at;
    const before = layout().slice(0, end).map(([slot]) => slot in votes).lastIndexOf(true);
    if (before < 0) return;
    at = before;
    spentMs = 0;
    show(true);
  };
  const pause = () => {
    tick();
    paused = !paused;
    $("pause").setAttribute("aria-pressed", String(paused));
    show();
  };
  const tick = (event) => {
    const now = Date.now();
    // the change itself ends the time before it: what was seen until the page was hidden counts
    const wasHidden = event && event.type === "visibilitychange" ? !document.hidden : document.hidden;
    if (voter !== null && !paused && !wasHidden) spentMs += Math.min(now - seenAt, IDLE_MS);
    seenAt = now;
  };

  const show = (moved = false) => {
    const slots = layout();
    const done = slots.filter(([slot]) => slot in votes).length;
    $("progress").max = slots.length;
    $("progress").value = done;
    $("count").textContent = say("count", { done, all: slots.length });
    const finished = at >= slots.length;
    $("item").hidden = paused || finished;
    $("paused").hidden = !paused;
    $("done").hidden = paused || !finished;
    if (finished) {
      if (moved) $("thanks").focus();
      return;
    }
    const [slot, number, first] = slots[at];
    const item = DATA.items[number];
    const texts = item.texts.length === 2 ? [item.texts[first], item.texts[1 - first]] : item.texts;
    const given = votes[slot];
    $("prompt").textContent = item.prompt;
    $("answers").replaceChildren(
      ...texts.map((text, i) => {
        const heading = element("h2", { id: "answer-" + i });
        heading.textContent = say("answer", { number: texts.length > 1 ? i + 1 : "" }).trim();
        const body = element("div", { className: "text", dir: "auto" });
        body.textContent = text;
        const article = element("article", {}, heading, body);
        article.setAttribute("aria-labelledby", heading.id);
        return article;
      })
    );
    $("choices").replaceChildren(
      ...CHOICES.map((choice, i) => {
        const key = DATA.keys[i].toUpperCase();
        const shown = DATA.form === "rate" ? choice : say(choice);
        const label = shown === key ? choice : key + " · " + shown;
        const button = element("button", { type: "button", textContent: label, onclick: () => choose(choice) });
        button.setAttribute("aria-pressed", String(Boolean(given) && given.choice === choice));
        button.setAttribute("aria-keyshortcuts", key);
        return button;
      })
    );
    if (moved || !$("grounds").childElementCount) {
      for (const name of GROUNDS) $("ground-" + name).checked = Boolean(given) && given.grounds.includes(name);
      $("comment").value = given ? given.comment : "";
    }
    if (moved) {
      $("prompt-heading").focus({ preventScroll: true });
      window.scrollTo(0, 0);
    }
  };
  const begin = () => {
    at = nextOpen();
    spentMs = 0;
    seenAt = Date.now();
    paused = false;
    $("pause").setAttribute("aria-pressed", "false");
    $("start").hidden = true;
    $("vote").hidden = false;
    $("grounds").replaceChildren(
      ...GROUNDS.map((name) => {
        const text = element("span");
        text.dataset.word = name;
        return element("label", {}, element("input", { type: "checkbox", id: "ground-" + name }), " ", text);
      })
    );
    translate();
    show(true);
  };
  const enter = (name) => {
    voter = name;
    try {
      votes = JSON.parse(kept(name)) || {};
    } catch {
      votes = {};
    }
    keep();
    begin();
  };

  document.addEventListener("keydown", (event) => {
    // a key that is held down would vote on one unseen item after another
    if (event.repeat || voter === null || event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^(TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
    const number = DATA.keys.indexOf(event.key.toLowerCase());
    if (number >= 0) choose(CHOICES[number]);
    else if (event.key === "u" || event.key === "U") undo();
    else if (event.key === "p" || event.key === "P") pause();
    else return;
    event.preventDefault();
  });
  for (const kind of ["keydown", "pointermove", "pointerdown", "scroll", "visibilitychange"])
    document.addEventListener(kind, tick, { passive: true });

  for (const [code, name] of Object.entries(LANGUAGES))
    $("language").append(element("option", { value: code, textContent: name, lang: code, selected: code === language }));
  $("language").onchange = () => {
    language = $("language").value;
    translate();
  };
  $("voters").append(
    ...Object.keys(DATA.voters).map((name) =>
      element("li", {}, element("button", { type: "button", textContent: name, onclick: () => enter(name) }))
    )
  );
  $("load").onchange = () => { if ($("load").files.length) load($("load").files[0]); };
  $("undo").onclick = undo;
  $("pause").onclick = pause;
  $("leave").onclick = () => {
    voter = null;
    $("vote").hidden = true;
    $("start").hidden = false;
    tell("");
  };
  $("save").onclick = () => download(fileName("saved") + ".json", saved(), "application/json");
  $("export").onclick = () => download(fileName("votes") + ".jsonl", exported(), "application/jsonl");

  $("start").hidden = false;
  translate();
  const last = kept("");
  if (last !== null && last in DATA.voters) enter(last);
  document.documentElement.dataset.ready = "yes";
})();
