"use strict";
// A list that is searched, filtered, sorted and read a page at a time. Texts of the run only ever become text nodes.

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children) if (child !== null && child !== undefined) made.append(child);
  return made;
}

function count(number) {
  return number.toLocaleString("en-US");
}

// "two words" "and a phrase" -> what a text must hold, in lower case
function wanted(query) {
  const found = query.toLowerCase().match(/"[^"]+"|\S+/g) || [];
  return found.map((word) => word.replaceAll('"', "")).filter(Boolean);
}

// a text with the words that were searched for marked in it
function marked(text, words, attributes) {
  const holder = el("p", { class: "text", ...attributes });
  const lower = text.toLowerCase();
  let place = 0;
  while (words.length && lower.length === text.length) {
    let next = -1, length = 0;
    for (const word of words) {
      const at = lower.indexOf(word, place);
      if (at >= 0 && (next < 0 || at < next)) { next = at; length = word.length; }
    }
    if (next < 0) break;
    holder.append(text.slice(place, next), el("mark", {}, text.slice(next, next + length)));
    place = next + length;
  }
  holder.append(text.slice(place));
  return holder;
}

function said(title, text, words) {
  const body = text ? marked(text, words) : el("p", { class: "text none" }, text === null ? "none" : "empty");
  return [el("h4", {}, title), body];
}

function copied(text, button) {
  const before = button.textContent;
  const tell = (word) => { button.textContent = word; setTimeout(() => { button.textContent = before; }, 1500); };
  const byHand = () => {
    const field = el("textarea", { class: "skip", "aria-hidden": "true" });
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    tell(done ? "Copied" : "Not copied");
  };
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => tell("Copied"), byHand);
  else byHand();
}

function saved(text, name, type) {
  const link = el("a", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function jsonLines(records) {
  return records.map((record) => JSON.stringify(record) + "\n").join("");
}

// as RFC 4180 says
function csvText(records, names) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [names, ...records.map((record) => names.map((name) => record[name]))].map((row) => row.map(cell).join(",") + "\r\n").join("");
}

// the lists by their sections; a fragment such as #examples?score=4.5&row=toys:00001 says what one shows
const browsers = {};

function follow() {
  const [, section, query] = location.hash.match(/^#([\w-]+)\?(.*)$/) || [];
  if (browsers[section]) browsers[section].restore(new URLSearchParams(query));
}

class Browser {
  // list: {section, count, perPage, noun, key(row), text(row), record(row), controls: [{id, label, options: [[value, name]],
  //        keeps(row, value), named(value)}], sorts: [{name, compare}], summary(row), full(row, words), extra: [buttons]}
  constructor(root, list) {
    this.root = root;
    this.list = list;
    this.page = 0;
    this.haystack = Array.from({ length: list.count }, (_, row) => list.text(row).toLowerCase());
    this.build();
    // the first search is as fast as the others
    this.haystack.filter((text) => text.includes("\u0000")).length;
    this.update();
    root.hidden = false;
    browsers[list.section] = this;
  }

  build() {
    const id = (name) => `${this.root.id}-${name}`;
    this.search = el("input", { type: "search", id: id("search"), autocomplete: "off", spellcheck: "false",
      placeholder: 'words, or a "phrase"' });
    this.sort = el("select", { id: id("sort") },
      ...this.list.sorts.map((sort, number) => el("option", { value: number }, sort.name)));
    this.selects = this.list.controls.map((control) => el("select", { id: id(control.id) },
      ...control.options.map(([value, name]) => el("option", { value }, name))));
    const field = (label, input, wide) => el("div", wide ? { class: "wide" } : {}, el("label", { for: input.id }, label), input);
    this.told = el("p", { class: "told", role: "status" });
    this.items = el("ul", { class: "items" });
    this.back = el("button", { type: "button" }, "Previous");
    this.next = el("button", { type: "button" }, "Next");
    this.where = el("span");
    this.root.append(
      el("form", { class: "controls", role: "search", "aria-label": `Find ${this.list.noun}` },
        field(`Search ${this.list.noun}`, this.search, true),
        ...this.selects.map((select, number) => field(this.list.controls[number].label, select)),
        ...(this.list.sorts.length > 1 ? [field("Order", this.sort)] : [])),
      el("div", { class: "bar" }, this.told, ...(this.list.extra || []), ...this.exports()),
      this.items, el("div", { class: "pager" }, this.where, this.back, this.next));
    this.listen();
    this.selects.forEach((select) => { select.parentElement.hidden = select.options.length < 2; });
  }

  exports() {
    const button = (name, action) => {
      const made = el("button", { type: "button" }, name);
      made.addEventListener("click", () => action(made));
      return made;
    };
    const records = () => this.found.map((row) => this.list.record(row));
    const names = () => Object.keys(this.list.record(0));
    return this.list.count ? [
      button("Copy JSONL", (made) => copied(jsonLines(records()), made)),
      button("Save JSONL", () => saved(jsonLines(records()), `${this.list.section}.jsonl`, "application/jsonl")),
      button("Save CSV", () => saved(csvText(records(), names()), `${this.list.section}.csv`, "text/csv")),
    ] : [];
  }

  listen() {
    let waiting = 0;
    this.search.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.changed(), 80);
    });
    for (const select of [...this.selects, this.sort]) select.addEventListener("change", () => this.changed());
    this.root.querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); this.changed(); });
    this.back.addEventListener("click", () => this.show(this.page - 1, true));
    this.next.addEventListener("click", () => this.show(this.page + 1, true));
  }

  changed() {
    this.update();
    this.remember();
  }

  // the fragment for what is shown, and for one row of it
  fragment(row) {
    const said = new URLSearchParams();
    if (this.search.value) said.set("q", this.search.value);
    this.list.controls.forEach((control, number) => {
      if (this.selects[number].value !== String(control.options[0][0])) said.set(control.id, this.selects[number].value);
    });
    if (this.sort.value > 0) said.set("order", this.sort.value);
    if (row !== undefined) said.set("row", this.list.key(row));
    return `#${this.list.section}?${said}`;
  }

  remember(row) {
    try { history.replaceState(null, "", this.fragment(row)); } catch { /* a page in a frame may not */ }
  }

  restore(said) {
    this.search.value = said.get("q") || "";
    this.list.controls.forEach((control, number) => this.choose(number, said.get(control.id)));
    this.sort.value = said.get("order") || "0";
    this.update();
    const key = said.get("row");
    const place = key === null ? -1 : this.found.findIndex((row) => this.list.key(row) === key);
    if (place < 0) { this.root.scrollIntoView({ block: "start" }); return; }
    this.show(Math.floor(place / this.list.perPage));
    const details = this.items.children[place % this.list.perPage].firstChild;
    details.open = true;
    details.scrollIntoView({ block: "start" });
  }

  // a value that no option has gets one
  choose(number, value) {
    const control = this.list.controls[number], select = this.selects[number];
    const wanted = value === null ? String(control.options[0][0]) : value;
    if (![...select.options].some((option) => option.value === wanted)) {
      select.append(el("option", { value: wanted }, control.named ? control.named(wanted) : wanted));
      select.parentElement.hidden = false;
    }
    select.value = wanted;
  }

  update() {
    const started = performance.now();
    this.words = wanted(this.search.value);
    const tests = this.list.controls
      .map((control, number) => [control, this.selects[number].value])
      .filter(([, value]) => value !== "");
    const found = [];
    for (let row = 0; row < this.list.count; row++) {
      if (tests.every(([control, value]) => control.keeps(row, value)) &&
        this.words.every((word) => this.haystack[row].includes(word))) found.push(row);
    }
    const compare = (this.list.sorts[Number(this.sort.value)] || this.list.sorts[0]).compare;
    this.found = compare ? found.sort(compare) : found;
    this.show(0);
    this.root.dataset.found = found.length;
    this.root.dataset.milliseconds = (performance.now() - started).toFixed(1);
  }

  show(page, jump) {
    const size = this.list.perPage;
    const last = Math.max(0, Math.ceil(this.found.length / size) - 1);
    this.page = Math.min(Math.max(0, page), last);
    const rows = this.found.slice(this.page * size, (this.page + 1) * size);
    this.items.replaceChildren(...(rows.length ? rows.map((row) => this.item(row))
      : [el("li", { class: "told" }, "Nothing fits these filters.")]));
    const all = this.found.length === this.list.count;
    this.told.textContent = all ? `${count(this.list.count)} ${this.list.noun}`
      : `${count(this.found.length)} of ${count(this.list.count)} ${this.list.noun}`;
    this.where.textContent = `page ${count(this.page + 1)} of ${count(last + 1)}`;
    this.back.disabled = this.page === 0;
    this.next.disabled = this.page === last;
    if (jump) this.root.scrollIntoView({ block: "start" });
  }

  item(row) {
    const details = el("details", {}, el("summary", {}, ...this.list.summary(row)));
    const words = this.words;
    // what is inside is made when it is looked at
    details.addEventListener("toggle", () => {
      if (!details.open || details.childElementCount > 1) return;
      const link = el("button", { type: "button" }, "Copy link to this row");
      link.addEventListener("click", () => {
        this.remember(row);
        copied(location.href, link);
      });
      details.append(el("div", { class: "full" }, ...this.list.full(row, words), el("div", { class: "row-actions" }, link)));
    });
    return el("li", {}, details);
  }
}
