// Another cut: the histogram as it would be, the rows that would enter and leave, and the command that makes it.

function cutter() {
  const holder = document.getElementById("cutter");
  if (!holder) return;
  const { curve, cut, arm, kept, knobs, marks } = JSON.parse(document.getElementById("cut-data").textContent);
  const slider = document.getElementById("cut");
  const part = (name) => document.getElementById(`cut-${name}`);
  const enter = part("enter"), leave = part("leave");
  const caption = holder.closest("figure").querySelector("figcaption"), own = caption.textContent;
  part("marks").replaceChildren(...marks.map(([place, text]) => {
    const mark = el("span", {}, text);
    mark.style.left = `calc(0.5rem + (100% - 1rem) * ${place / 100})`;
    return mark;
  }));
  const point = () => curve[Number(slider.value)];
  const tell = () => {
    const { threshold, rows, share, tokens, kept: stay } = point();
    const told = `score of at least ${threshold}: ${count(rows)} examples, ${(100 * share).toFixed(1)}%, about ${count(tokens)} tokens`;
    part("told").textContent = told;
    slider.setAttribute("aria-valuetext", told);
    enter.textContent = `${count(rows - stay)} rows enter`;
    leave.textContent = `${count(kept - stay)} rows leave`;
    enter.disabled = rows === stay;
    leave.disabled = kept === stay;
    part("command").textContent =
      `alpagasus pick RUN${knobs} -s 'pick.arms=[{name: cut-${threshold}, policy: threshold, threshold: ${threshold}}]'`;
  };
  const move = () => {
    const { threshold, rows } = point();
    tell();
    redraw(threshold, rows);
    caption.textContent = `Examples by score, as a cut at ${threshold} would keep them: ${count(rows)}. ${arm} itself is as it was, ${count(kept)} examples.`;
    tried(threshold);
  };
  const reset = () => {
    slider.value = Math.max(0, curve.findIndex(({ threshold }) => cut !== null && threshold >= cut - 1e-9));
    tell();
    redraw(null);
    caption.textContent = own;
    tried(null);
  };
  slider.addEventListener("input", move);
  part("back").addEventListener("click", reset);
  for (const [button, way] of [[enter, "enter"], [leave, "leave"]]) {
    button.addEventListener("click", () => { location.hash = `#examples?change=${way}-${point().threshold}`; });
  }
  part("copy").addEventListener("click", () => copied(part("command").textContent, part("copy")));
  part("back").title = `the cut of ${arm}`;
  reset();
  holder.hidden = false;
}

// columns with what a cut would keep, `all` in all; null: with what the arm keeps
function redraw(cut, all) {
  const columns = [...document.querySelectorAll("a.column")];
  const above = columns.filter((column) => cut !== null && Number(column.dataset.low) >= cut - 1e-9);
  const inside = above.reduce((sum, column) => sum + Number(column.dataset.pool), 0);
  columns.forEach((column, number) => {
    const { rows, kept, pool } = column.dataset;
    // a column of several scores may hold the cut: what of it is kept is the rest
    const split = number === columns.length - above.length - 1 ? all - inside : 0;
    const held = cut === null ? Number(kept) : above.includes(column) ? Number(pool) : split;
    const [upper, lower] = column.querySelectorAll("rect");
    const top = Number(upper.getAttribute("y")), end = Number(lower.getAttribute("y")) + Number(lower.getAttribute("height"));
    const edge = end - (end - top) * held / (Number(rows) || 1);
    upper.setAttribute("height", edge - top);
    lower.setAttribute("y", edge);
    lower.setAttribute("height", end - edge);
    const title = column.querySelector("title");
    title.textContent = title.textContent.replace(/[\d,]+ kept$/, `${count(held)} kept`);
    column.setAttribute("aria-label", `${title.textContent}; show them`);
  });
}

// the cut that is tried, as a line of its own in the curve of all cuts; null: none is
function tried(cut) {
  const mark = document.getElementById("cut-tried");
  if (!mark) return;
  mark.setAttribute("display", cut === null ? "none" : "inline");
  if (cut === null) return;
  const { low, high } = mark.dataset;
  const share = (cut - low) / (high - low || 1), place = `${100 * share}%`;
  const [line, label] = mark.children;
  line.setAttribute("x1", place);
  line.setAttribute("x2", place);
  label.setAttribute("x", place);
  label.setAttribute("text-anchor", share > 0.5 ? "end" : "start");
  label.setAttribute("dx", share > 0.5 ? "-6" : "6");
  label.textContent = `tried: ${cut}`;
}
