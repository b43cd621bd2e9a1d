// Ratings that a reader marks as wrong: kept in this browser where it allows that, and exported for `card.gold`.

class Marks {
  constructor({ ratings, scale }) {
    this.place = `alpagasus-marks-${ratings}`;
    this.scale = scale;
    this.button = el("button", { type: "button" });
    this.button.addEventListener("click", () => saved(this.csv(), "gold.csv", "text/csv"));
    this.given = new Map();
    try { this.given = new Map(JSON.parse(localStorage.getItem(this.place) || "[]")); } catch { /* it keeps nothing */ }
    this.tell();
  }

  set(id, mark) {
    if (mark) this.given.set(id, mark);
    else this.given.delete(id);
    try { localStorage.setItem(this.place, JSON.stringify([...this.given])); } catch { /* it keeps nothing */ }
    this.tell();
  }

  tell() {
    this.button.textContent = `Export ${count(this.given.size)} wrong ${this.given.size === 1 ? "rating" : "ratings"} (CSV)`;
    this.button.hidden = this.given.size === 0;
  }

  csv() {
    const records = [...this.given].map(([example_id, mark]) => ({ example_id, ...mark, mark: "wrong rating" }));
    return csvText(records, ["example_id", "score", "judged", "mark", "comment"]);
  }

  // what a row deserves instead; `range` stands in for a scale that is not known
  form(id, judged, range) {
    const { min, max, step } = this.scale || { ...range, step: null };
    const known = this.given.get(id);
    const name = (part) => `mark-${part}-${id}`;
    const score = el("input", { type: "number", id: name("score"), min, max, step: step || "any", required: true, value: known ? known.score : null });
    const comment = el("input", { type: "text", id: name("comment"), value: known ? known.comment : null });
    const submit = el("button", { type: "submit" }, "Wrong rating");
    const undo = el("button", { type: "button", hidden: !known }, "Take back");
    const told = el("span", { class: "about", role: "status" }, known ? "marked" : "");
    const form = el("form", { class: "wrong screen-only" },
      el("div", {}, el("label", { for: score.id }, `It deserves (${min} to ${max})`), score),
      el("div", { class: "comment" }, el("label", { for: comment.id }, "Comment"), comment), submit, undo, told);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.set(id, { score: Number(score.value), judged, comment: comment.value });
      told.textContent = "marked";
      undo.hidden = false;
    });
    undo.addEventListener("click", () => { this.set(id, null); told.textContent = ""; undo.hidden = true; });
    return form;
  }
}
