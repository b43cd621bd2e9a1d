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

class Browser {
  // list: {count, perPage, noun, text(row), controls: [{id, label, options: [[value, name]], keeps(row, value)}],
  //        sorts: [{name, compare}], summary(row), full(row, words)}
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
      this.told, this.items, el("div", { class: "pager" }, this.where, this.back, this.next));
    this.listen();
  }

  listen() {
    let waiting = 0;
    this.search.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.update(), 80);
    });
    for (const select of [...this.selects, this.sort]) select.addEventListener("change", () => this.update());
    this.root.querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); this.update(); });
    this.back.addEventListener("click", () => this.show(this.page - 1, true));
    this.next.addEventListener("click", () => this.show(this.page + 1, true));
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
    const compare = this.list.sorts[Number(this.sort.value) || 0].compare;
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
    this.items.replaceChildren(...rows.map((row) => this.item(row)));
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
    const fill = () => {
      if (details.childElementCount === 1) details.append(el("div", { class: "full" }, ...this.list.full(row, words)));
    };
    details.addEventListener("toggle", fill);
    details.addEventListener("fill", fill);
    return el("li", {}, details);
  }
}
