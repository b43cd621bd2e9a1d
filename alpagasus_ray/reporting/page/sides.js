// Prompts with the answers of all models, and what a judge said of two of them.

const OUTCOMES = { win: "win", tie: "tie", lose: "lose" };

function sideList(data) {
  const rows = data.comparisons.flatMap((pair, number) => pair.rows.map((row) => [number, ...row]));
  const prompt = (row) => data.prompts[rows[row][1]];
  const answer = (row, side) => data.answers[rows[row][side === "a" ? 2 : 3]];
  const outcome = (row) => rows[row][4];
  const flipped = ([, , , , , ab, ba]) => Boolean(ab && ba && ab[1] && ba[1] && ab[1] !== "tie" && ba[1] !== "tie" && ab[1] !== ba[1]);
  const distinct = (place) => [...new Set(data.prompts.map((found) => found[place]).filter(Boolean))].sort().map((name) => [name, name]);
  const controls = [
    { id: "pair", label: "Pair and judge", options: data.comparisons.map((pair, number) => [number, `${pair.a} – ${pair.b}, ${pair.voter}`]),
      keeps: (row, value) => rows[row][0] === Number(value) },
    { id: "test-set", label: "Test set", options: [["", "all"], ...distinct(1)], keeps: (row, value) => prompt(row)[1] === value },
    { id: "result", label: "Result", options: [["", "any"], ["win", "win"], ["tie", "tie"], ["lose", "lose"], ["flipped", "flipped with the order"], ["none", "no verdict"]],
      keeps: (row, value) => value === "flipped" ? flipped(rows[row]) : value === "none" ? outcome(row) === null : outcome(row) === value },
  ];
  for (const [place, id, label] of [[2, "category", "Category"], [3, "skill", "Skill"]]) {
    const names = distinct(place);
    if (names.length > 1) controls.push({ id, label, options: [["", "any"], ...names], keeps: (row, value) => prompt(row)[place] === value });
  }
  return {
    section: "sides", count: rows.length, perPage: 10, noun: "prompts",
    key: (row) => `${rows[row][0]}/${prompt(row)[1]}/${prompt(row)[0]}`,
    record: (row) => sideRecord(data, rows[row]), controls, sorts: [{ name: "as in the test set", compare: null }],
    text: (row) => [prompt(row)[0], prompt(row)[4], prompt(row)[5], answer(row, "a") || "", answer(row, "b") || "",
      ...[5, 6].map((place) => rows[row][place] ? rows[row][place][4] || "" : "")].join("\n"),
    summary: (row) => [
      el("span", { class: "score" }, el("small", {}, prompt(row)[3] || prompt(row)[2] || prompt(row)[1])),
      el("span", { class: "clamp" }, prompt(row)[4] || prompt(row)[5]),
      el("span", { class: "clamp answer-text" }, answer(row, "a") || "(no answer)"),
      el("span", { class: "state" }, el("b", { class: OUTCOMES[outcome(row)] }, outcome(row) || "no verdict")),
    ],
    full: (row, query) => fullPrompt(data, rows[row], query),
  };
}

function fullPrompt(data, [number, prompt, a, b, outcome, ab, ba], query) {
  const pair = data.comparisons[number];
  const [id, testSet, category, skill, instruction, input] = data.prompts[prompt];
  const shown = answersTo(data, prompt, [[pair.a, data.answers[a]], [pair.b, data.answers[b]]]);
  const column = (title, text) => el("div", {}, ...said(title, text, query));
  return [
    ...said("Prompt", instruction, query), ...(input ? said("Input", input, query) : []),
    el("div", { class: "models" }, ...shown.map(([name, text]) => column(name, text))),
    ...(shown.length > 1 ? [differences(shown, [pair.a, pair.b])] : []),
    el("div", { class: "pair" }, column(`Review, ${pair.a} first: ${result(ab, pair)}`, ab && (ab[4] || ab[5])),
      column(`Review, ${pair.b} first: ${result(ba, pair)}`, ba && (ba[4] || ba[5]))),
    ...(outcome === "lose" && pair.explains && data.like[prompt] ? [likeRows(data.like[prompt])] : []),
    el("p", { class: "about" }, [id, testSet, category, skill].filter(Boolean).join(" · ")),
  ];
}

// the rows of the dataset that are like a prompt on which the arm lost
function likeRows({ words, rows }) {
  const line = ([id, text, score, kept]) => el("li", {}, el("b", {}, kept ? "kept" : "dropped"), score === null ? ", no score: " : `, score ${score}: `,
    el("span", { class: "clamp" }, text), el("small", {}, id));
  return el("div", { class: "like" }, el("h4", {}, "In the dataset"), el("p", {}, `By the words that they share, ${words}.`),
    ...(rows.length ? [el("ul", {}, ...rows.map(line))] : []));
}

// the answers of this pair, then the reference, then those of all other models
function answersTo(data, prompt, pair) {
  const shown = new Map(pair);
  if (data.prompts[prompt][6]) shown.set("reference", data.prompts[prompt][6]);
  for (const { a, b, rows } of data.comparisons) {
    const row = rows.find(([number]) => number === prompt);
    if (row) for (const [name, answer] of [[a, row[1]], [b, row[2]]]) if (!shown.has(name)) shown.set(name, data.answers[answer]);
  }
  for (const [name, held] of Object.entries(data.others)) {
    if (!shown.has(name) && held[prompt] !== undefined) shown.set(name, data.answers[held[prompt]]);
  }
  return [...shown];
}

function sideRecord(data, [number, prompt, a, b, outcome, ab, ba]) {
  const { a: nameA, b: nameB, voter } = data.comparisons[number];
  const [prompt_id, test_set, category, skill, instruction, input, reference] = data.prompts[prompt];
  return { prompt_id, test_set, category, skill, instruction, input, reference, a: nameA, b: nameB, judge: voter, outcome,
    answer_a: data.answers[a], answer_b: data.answers[b], review_ab: ab && ab[4], review_ba: ba && ba[4] };
}

const MOST_TOKENS = 1500;

// words and blanks; of writing without blanks, characters
function tokens(text) {
  return (text || "").match(/\s+|[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]|[^\s\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]+/gu) || [];
}

// the longest common sequence: [[kind, token]], kind -1 only in the first, 1 only in the second, 0 in both
function difference(first, second) {
  const width = second.length + 1, best = new Uint16Array((first.length + 1) * width);
  for (let i = first.length - 1; i >= 0; i--) {
    for (let j = second.length - 1; j >= 0; j--) {
      best[i * width + j] = first[i] === second[j] ? best[(i + 1) * width + j + 1] + 1
        : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    }
  }
  const parts = [];
  let i = 0, j = 0;
  while (i < first.length || j < second.length) {
    if (i < first.length && j < second.length && first[i] === second[j]) { parts.push([0, first[i]]); i++; j++; }
    else if (j >= second.length || (i < first.length && best[(i + 1) * width + j] >= best[i * width + j + 1])) parts.push([-1, first[i++]]);
    else parts.push([1, second[j++]]);
  }
  return parts;
}

// two of the answers as one text: struck out what only the first has, tinted what only the second has
function differences(shown, [first, second]) {
  const texts = new Map(shown), names = [...texts.keys()];
  const pick = (name, label) => {
    const select = el("select", { "aria-label": label }, ...names.map((each) => el("option", { value: each }, each)));
    select.value = name;
    return select;
  };
  const from = pick(first, "from"), to = pick(second, "to");
  const holder = el("p", { class: "text" });
  const draw = () => {
    const [one, other] = [from, to].map((select) => tokens(texts.get(select.value)));
    if (Math.max(one.length, other.length) > MOST_TOKENS) { holder.replaceChildren("Too long to be compared word by word."); return; }
    holder.replaceChildren(...difference(one, other).map(([kind, token]) => kind ? el(kind < 0 ? "del" : "ins", {}, token) : token));
  };
  const details = el("details", { class: "screen-only" }, el("summary", {}, "Differences"),
    el("div", { class: "row-actions" }, "from", from, "to", to), holder);
  details.addEventListener("toggle", draw);
  from.addEventListener("change", draw);
  to.addEventListener("change", draw);
  return details;
}

function result(game, pair) {
  if (!game) return "no game";
  const [status, winner, scoreA, scoreB] = game;
  if (!winner) return status;
  const scores = scoreA === null ? "" : ` (${scoreA} to ${scoreB})`;
  return (winner === "tie" ? "tie" : `${pair[winner]} wins`) + scores;
}
