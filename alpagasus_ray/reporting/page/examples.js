// The examples with their ratings.

function scoreOptions(scores) {
  if (!scores) return null;
  const distinct = [...new Set(scores.filter((score) => score !== null))].sort((a, b) => b - a);
  const values = distinct.length > 21 ? [...new Set(distinct.map(Math.floor))].map((value) => `${value}..${value + 1}`) : distinct.map(String);
  // as `isWithin` has it
  const named = (value) => {
    const [low, high] = value.split("..");
    return high === undefined ? low : `${low} ${distinct[0] <= Number(high) + 1e-3 ? "to" : "to under"} ${high}`;
  };
  return {
    id: "score", label: "Score", named,
    options: [["", "any"], ...values.map((value) => [value, named(value)]), ["none", "no score"]],
    keeps: (row, value) => value === "none" ? scores[row] === null : scores[row] !== null && isWithin(scores[row], value, distinct[0]),
  };
}

// `4.5` is one score; `4..4.5` are those from 4 up to 4.5, which belongs to them only where there is no higher one
function isWithin(score, value, highest) {
  const [low, high] = value.split("..").map(Number);
  if (high === undefined) return Math.abs(score - low) < 0.0006;
  return score >= low - 1e-9 && (score < high - 1e-9 || highest <= high + 1e-3);
}

function byScore(scores, sign) {
  const far = -Infinity;
  const value = (row) => scores[row] === null ? far : sign * scores[row];
  return (a, b) => value(b) - value(a) || a - b;
}

// `enter-4`: not in the arm, and would be with a cut at 4; `leave-4`: the other way round
function changeControl(table) {
  // rows that no cut would keep: left out for what they are, not for their score
  const barred = (row) => /^(an exact duplicate of|nearly repeats|test set) /.test(decoded(table.reason, row) || "");
  const named = (value) => value.replace(/^(enter|leave)-(.*)/, (_, way, cut) => `${way}s at ${cut}`);
  return {
    id: "change", label: "Another cut", named, options: [["", "any"]],
    keeps: (row, value) => {
      const [way, cut] = value.split(/-(.*)/);
      const above = table.score[row] !== null && table.score[row] >= Number(cut) - 0.0006;
      return way === "enter" ? !table.kept[row] && above && !barred(row) : Boolean(table.kept[row]) && !above;
    },
  };
}

function exampleList(table) {
  const scores = table.score;
  const marks = new Marks(JSON.parse(document.getElementById("mark-data").textContent));
  const lengths = Uint32Array.from(table.output, (text) => text.length);
  const inGroup = (row, value) => ({
    marked: () => marks.given.has(table.id[row]), kept: () => table.kept[row] === 1, dropped: () => table.kept[row] === 0, duplicate: () => Boolean(table.duplicate[row]),
  }[value] || (() => (table.groups[row] & Number(value)) > 0))();
  const any = (bit) => table.groups.some((group) => group & bit);
  const groups = [["", "all"], [1, "best"], [2, "worst"], [4, "around the cut"]].filter(([bit]) => bit === "" || any(bit));
  if (table.kept.includes(1)) groups.push(["kept", "in the arm"], ["dropped", "left out"]);
  if (scores) groups.push(["marked", "marked as wrong"]);
  if (table.duplicate) groups.push(["duplicate", "exact duplicates"]);
  const controls = [{ id: "group", label: "Group", options: groups, keeps: inGroup }];
  const scored = scoreOptions(scores);
  if (scored) controls.push(scored);
  if (scores) controls.push(changeControl(table));
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
    section: "examples", count: table.id.length, perPage: 20, noun: "examples", controls, sorts, extra: [marks.button],
    key: (row) => table.id[row],
    record: (row) => exampleRecord(table, row),
    text: (row) => [table.instruction[row], table.input[row], table.output[row], table.reply[row] || "", table.id[row]].join("\n"),
    summary: (row) => [
      el("span", { class: "score" }, scores && scores[row] !== null ? String(scores[row]) : "–",
        table.expected && table.expected[row] !== null ? el("small", {}, `expected ${table.expected[row].toFixed(2)}`) : null),
      el("span", { class: "clamp" }, table.instruction[row] || table.input[row] || "(empty)"),
      el("span", { class: "clamp answer-text" }, table.output[row] || "(no output)"),
      el("span", { class: "state" }, table.kept[row] ? el("b", { class: "kept" }, "in the arm") : el("b", {}, "left out")),
    ],
    full: (row, query) => fullExample(table, row, query, marks),
  };
}

function fullExample(table, row, query, marks) {
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
    ...(table.score ? [marks.form(table.id[row], table.score[row], scoreRange(table.score))] : []),
  ];
}

function scoreRange(scores) {
  const known = scores.filter((score) => score !== null);
  return { min: known.reduce((a, b) => Math.min(a, b)), max: known.reduce((a, b) => Math.max(a, b)) };
}

// what a row has that leaves the page
function exampleRecord(table, row) {
  return {
    example_id: table.id[row], instruction: table.instruction[row], input: table.input[row], output: table.output[row],
    category: decoded(table.category, row), score: table.score && table.score[row], expected_score: table.expected && table.expected[row],
    status: decoded(table.status, row), kept: table.kept[row] === 1, reason: decoded(table.reason, row), reply: table.reply[row],
  };
}

