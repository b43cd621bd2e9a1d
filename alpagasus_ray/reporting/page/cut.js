// Another cut: the histogram as it would be, the rows that would enter and leave, and the command that makes it.

function cutter() {
  const holder = document.getElementById("cutter");
  if (!holder) return;
  const { curve, cut, arm, kept, knobs } = JSON.parse(document.getElementById("cut-data").textContent);
  const slider = document.getElementById("cut");
  const part = (name) => document.getElementById(`cut-${name}`);
  const enter = part("enter"), leave = part("leave");
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
  const move = () => { tell(); redraw(point().threshold); };
  const reset = () => {
    slider.value = Math.max(0, curve.findIndex(({ threshold }) => cut !== null && threshold >= cut - 1e-9));
    tell();
    redraw(null);
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

// columns with what a cut would keep; null: with what the arm keeps
function redraw(cut) {
  for (const column of document.querySelectorAll("a.column")) {
    const { low, rows, kept } = column.dataset;
    const held = cut === null ? Number(kept) : Number(low) >= cut - 1e-9 ? Number(rows) : 0;
    const [above, below] = column.querySelectorAll("rect");
    const top = Number(above.getAttribute("y")), end = Number(below.getAttribute("y")) + Number(below.getAttribute("height"));
    const edge = end - (end - top) * held / (Number(rows) || 1);
    above.setAttribute("height", edge - top);
    below.setAttribute("y", edge);
    below.setAttribute("height", end - edge);
  }
}
