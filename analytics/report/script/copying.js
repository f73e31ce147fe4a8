// Below each figure: its SQL and its numbers to copy, files of it, and the numbers as a table.

const MOST_ROWS = 200; // of a figure's table on the page

async function copy(text, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    done = copyBySelection(text); // no clipboard for a page that is a file, or no leave to use it
  }
  const words = button.textContent;
  button.textContent = done ? "Copied" : "Not copied";
  say(done ? `${words}: done` : "This browser lets no page copy");
  setTimeout(() => {
    button.textContent = words;
  }, 1500);
}

function copyBySelection(text) {
  const focused = document.activeElement;
  const area = element("textarea", { class: "aside", "aria-hidden": "true", tabindex: "-1" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}

function download(name, address) {
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

function downloadText(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  download(name, address);
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

async function downloadImage(figure, format) {
  const view = drawn.get(figure.name);
  if (format === "svg") downloadText(`${figure.name}.svg`, await view.toSVG(), "image/svg+xml");
  else download(`${figure.name}.png`, await view.toImageURL("png", 2));
}

function table(name) {
  const columns = columnsOf(content.datasets[name]);
  const lists = [...columns.values()];
  const count = lists[0]?.length ?? 0;
  const shown = Math.min(count, MOST_ROWS);
  const said = (value) => (value === null || value === undefined ? "unknown" : typeof value === "string" ? label(value) : String(value));
  const head = element("tr", {}, ...[...columns.keys()].map((column) => element("th", { scope: "col" }, column)));
  const body = element("tbody");
  for (let row = 0; row < shown; row += 1) {
    body.append(
      element("tr", {}, ...lists.map((list) => element("td", typeof list[row] === "string" ? { class: "name" } : {}, said(list[row])))),
    );
  }
  const words = shown < count ? `The first ${shown} of ${count} rows; the CSV has all` : `${count} rows`;
  return element("table", {}, element("caption", {}, words), element("thead", {}, head), body);
}

function tools(figure) {
  const place = document.getElementById(`${figure.name}-tools`);
  const title = document.getElementById(`${figure.name}-caption`).textContent;
  const button = (words, action, what) => element("button", { type: "button", "aria-label": `${words}: ${what ?? title}`, onclick: action }, words);
  const [numbers] = figure.datasets;
  if (figure.sql) place.append(button("Copy SQL", (event) => copy(figure.sql, event.currentTarget)));
  place.append(
    button("Copy CSV", (event) => copy(csv(numbers), event.currentTarget)),
    button("CSV", () => downloadText(`${figure.name}.csv`, csv(numbers), "text/csv"), `download ${title}`),
    button("SVG", () => downloadImage(figure, "svg"), `download ${title}`),
    button("PNG", () => downloadImage(figure, "png"), `download ${title}`),
  );
  const details = document.getElementById(`${figure.name}-numbers`);
  details.addEventListener("toggle", () => {
    const box = details.querySelector("div");
    if (details.open && !box.firstChild) box.append(table(numbers));
  });
}
