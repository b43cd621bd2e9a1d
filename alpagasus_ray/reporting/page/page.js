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
  window.addEventListener("hashchange", follow);
  follow();
  document.documentElement.dataset.ready = "yes";
}

// the first paint comes first
requestAnimationFrame(() => setTimeout(begin, 0));
