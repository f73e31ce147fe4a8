// The content of the page, and elements to show it with. Text of the store is only ever set as text.

const content = JSON.parse(document.getElementById("content").textContent);
const codes = content.languages.codes;
const nameOf = new Map(codes.map((code, number) => [code, content.languages.names[number]]));

function label(code) {
  return nameOf.get(code) ? `${code} · ${nameOf.get(code)}` : code;
}

function columnsOf(packed) {
  return new Map(
    Object.entries(packed).map(([name, column]) => [
      name,
      Array.isArray(column) ? column : column.codes.map((code) => column.levels[code]),
    ]),
  );
}

// Vega writes into the rows it is given, so every chart gets rows of its own.
function rows(name) {
  const columns = [...columnsOf(content.datasets[name])];
  if (!columns.length) return [];
  return columns[0][1].map((_, row) => {
    const made = {};
    for (const [column, values] of columns) made[column] = values[row];
    return made;
  });
}

// A spreadsheet takes text that begins so for a formula.
function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "string") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csv(name) {
  const columns = columnsOf(content.datasets[name]);
  const lists = [...columns.values()];
  const lines = [[...columns.keys()].map(cell).join(",")];
  for (let row = 0; row < (lists[0]?.length ?? 0); row += 1) lines.push(lists.map((list) => cell(list[row])).join(","));
  return `${lines.join("\n")}\n`;
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") made.toggleAttribute(name, value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function say(words) {
  document.getElementById("said").textContent = words;
}
