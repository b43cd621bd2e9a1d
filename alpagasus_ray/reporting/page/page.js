// Unpacks what the page carries and lets it be looked at.

async function unpack(id) {
  const holder = document.getElementById(id);
  if (!holder) return null;
  const packed = atob(holder.textContent.trim());
  holder.remove();
  const bytes = new Uint8Array(packed.length);
  for (let place = 0; place < packed.length; place++) bytes[place] = packed.charCodeAt(place);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// a column of texts that repeat: {names, rows} or nothing
function decoded(column, row) {
  return column && column.rows[row] !== null ? column.names[column.rows[row]] : null;
}

function each(column) {
  return column ? column.names.map((name) => [name, name]) : [];
}

function characters(text) {
  return Array.from(text).length;
}

function scoreOptions(scores) {
  if (!scores) return null;
  const distinct = [...new Set(scores.filter((score) => score !== null))].sort((a, b) => b - a);
  const coarse = distinct.length > 21;
  const values = coarse ? [...new Set(distinct.map(Math.floor))] : distinct;
  return {
    id: "score", label: "Score",
    options: [["", "any"], ...values.map((value) => [String(value), coarse ? `${value} to ${value + 1}` : String(value)]), ["none", "no score"]],
    keeps: (row, value) => value === "none" ? scores[row] === null
      : scores[row] !== null && (coarse ? Math.floor(scores[row]) === Number(value) : scores[row] === Number(value)),
  };
}

function byScore(scores, sign) {
  const far = -Infinity;
  const value = (row) => scores[row] === null ? far : sign * scores[row];
  return (a, b) => value(b) - value(a) || a - b;
}

function exampleList(table) {
  const scores = table.score;
  const lengths = Uint32Array.from(table.output, (text) => text.length);
  const inGroup = (row, value) => ({
    kept: () => table.kept[row] === 1, dropped: () => table.kept[row] === 0, duplicate: () => Boolean(table.duplicate[row]),
  }[value] || (() => (table.groups[row] & Number(value)) > 0))();
  const any = (bit) => table.groups.some((group) => group & bit);
  const groups = [["", "all"], [1, "best"], [2, "worst"], [4, "around the cut"]].filter(([bit]) => bit === "" || any(bit));
  if (table.kept.includes(1)) groups.push(["kept", "in the arm"], ["dropped", "left out"]);
  if (table.duplicate) groups.push(["duplicate", "exact duplicates"]);
  const controls = [{ id: "group", label: "Group", options: groups, keeps: inGroup }];
  const scored = scoreOptions(scores);
  if (scored) controls.push(scored);
  for (const name of ["category", "status"]) {
    if (table[name] && table[name].names.length > 1) {
      controls.push({ id: name, label: name[0].toUpperCase() + name.slice(1), options: [["", "any"], ...each(table[name]).sort()],
        keeps: (row, value) => decoded(table[name], row) === value });
    }
  }
  const sorts = [{ name: "as in the source", compare: null }];
  if (scores) sorts.push({ name: "highest score first", compare: byScore(scores, 1) }, { name: "lowest score first", compare: byScore(scores, -1) });
  sorts.push({ name: "longest output first", compare: (a, b) => lengths[b] - lengths[a] || a - b },
    { name: "shortest output first", compare: (a, b) => lengths[a] - lengths[b] || a - b });
  return {
    count: table.id.length, perPage: 20, noun: "examples", controls, sorts,
    text: (row) => [table.instruction[row], table.input[row], table.output[row], table.reply[row] || "", table.id[row]].join("\n"),
    summary: (row) => [
      el("span", { class: "score" }, scores && scores[row] !== null ? String(scores[row]) : "–",
        table.expected && table.expected[row] !== null ? el("small", {}, `expected ${table.expected[row].toFixed(2)}`) : null),
      el("span", { class: "clamp" }, table.instruction[row] || table.input[row] || "(empty)"),
      el("span", { class: "clamp answer-text" }, table.output[row] || "(no output)"),
      el("span", { class: "state" }, table.kept[row] ? el("b", { class: "kept" }, "in the arm") : el("b", {}, "left out")),
    ],
    full: (row, query) => fullExample(table, row, query),
  };
}

function fullExample(table, row, query) {
  const others = Object.entries(table.other).filter(([, scores]) => scores && scores[row] !== null)
    .map(([name, scores]) => `${name} ${scores[row]}`);
  const facts = [table.id[row], decoded(table.category, row), `${count(characters(table.output[row]))} characters in the output`,
    table.kept[row] ? "in the arm" : decoded(table.reason, row), table.duplicate && table.duplicate[row] && `a copy of ${table.duplicate[row]}`,
    decoded(table.status, row), ...others].filter(Boolean);
  return [
    ...said("Instruction", table.instruction[row], query),
    ...(table.input[row] ? said("Input", table.input[row], query) : []),
    ...said("Output", table.output[row], query),
    ...(table.reply[row] === null ? [] : said("The judge's reply", table.reply[row], query)),
    ...(table.error[row] ? said("Why there is no score", table.error[row], []) : []),
    el("p", { class: "about" }, facts.join(" · ")),
  ];
}

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
    count: rows.length, perPage: 10, noun: "prompts", controls, sorts: [{ name: "as in the test set", compare: null }],
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

function fullPrompt(data, [number, prompt, a, b, , ab, ba], query) {
  const pair = data.comparisons[number];
  const [id, testSet, category, skill, instruction, input] = data.prompts[prompt];
  const column = (title, text) => el("div", {}, ...said(title, text, query));
  return [
    ...said("Prompt", instruction, query), ...(input ? said("Input", input, query) : []),
    el("div", { class: "pair" }, column(pair.a, data.answers[a]), column(pair.b, data.answers[b])),
    el("div", { class: "pair" }, column(`Review, ${pair.a} first: ${result(ab, pair)}`, ab && (ab[4] || ab[5])),
      column(`Review, ${pair.b} first: ${result(ba, pair)}`, ba && (ba[4] || ba[5]))),
    el("p", { class: "about" }, [id, testSet, category, skill].filter(Boolean).join(" · ")),
  ];
}

function result(game, pair) {
  if (!game) return "no game";
  const [status, winner, scoreA, scoreB] = game;
  if (!winner) return status;
  const scores = scoreA === null ? "" : ` (${scoreA} to ${scoreB})`;
  return (winner === "tie" ? "tie" : `${pair[winner]} wins`) + scores;
}

function cutter() {
  const holder = document.getElementById("cutter");
  if (!holder) return;
  const { curve, cut } = JSON.parse(document.getElementById("cut-data").textContent);
  const slider = document.getElementById("cut");
  const tell = () => {
    const point = curve[Number(slider.value)];
    const told = `score of at least ${point.threshold}: ${count(point.rows)} examples, ${(100 * point.share).toFixed(1)}%, about ${count(point.tokens)} tokens`;
    document.getElementById("cut-told").textContent = told;
    slider.setAttribute("aria-valuetext", told);
  };
  slider.value = Math.max(0, curve.findIndex((point) => cut !== null && point.threshold >= cut));
  slider.addEventListener("input", tell);
  tell();
  holder.hidden = false;
}

async function fill(browserId, dataId, listOf) {
  const root = document.getElementById(browserId);
  if (!root) return;
  const waiting = document.querySelector(`[data-for="${browserId}"]`);
  if (!("DecompressionStream" in window)) {
    waiting.textContent = "This browser cannot unpack the list: it needs Chrome 80, Firefox 113 or Safari 16.4, or newer.";
    return;
  }
  new Browser(root, listOf(await unpack(dataId)));
  waiting.remove();
}

async function begin() {
  cutter();
  await fill("side-browser", "side-data", sideList);
  await fill("example-browser", "table-data", exampleList);
  document.documentElement.dataset.ready = "yes";
}

window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) { details.open = true; details.dataset.printed = ""; }
  for (const details of document.querySelectorAll(".items details")) details.dispatchEvent(new Event("fill"));
});
window.addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-printed]")) { details.open = false; delete details.dataset.printed; }
});
// the first paint comes first
requestAnimationFrame(() => setTimeout(begin, 0));
