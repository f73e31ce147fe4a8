// The page's one choice of languages: a field to search by code or name, a list to tick, and what is chosen beside it.

const boxes = new Map(); // a code -> its box in the list

function plain(text) {
  return text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
}

function matching(query) {
  const words = plain(query).split(/\s+/).filter(Boolean);
  return codes.filter((code) => words.every((word) => plain(label(code)).includes(word)));
}

function languagePicker() {
  const list = element("ul", { id: "languages", class: "languages", "aria-label": "Languages" });
  for (const code of codes) {
    const box = element("input", { type: "checkbox", onchange: () => toggleLanguage(code) });
    boxes.set(code, box);
    list.append(element("li", { "data-code": code }, element("label", {}, box, element("span", {}, code), nameOf.get(code) ?? "")));
  }
  const field = element("input", {
    type: "search",
    id: "language",
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "code or name",
    "aria-describedby": "language-help",
  });
  const help = element("span", { id: "language-help", class: "aside" }, "Matches are listed below as boxes to tick: arrow down goes to them, Enter chooses the first.");
  const count = element("p", { class: "count" });
  const panel = element("div", { class: "picker", id: "picker", hidden: true }, count, list);
  const around = element("div", { class: "choose" }, element("label", { for: "language" }, "Languages"), field, help, panel);
  const open = (yes) => {
    panel.hidden = !yes;
  };
  const filter = () => {
    const found = new Set(matching(field.value));
    for (const item of list.children) item.hidden = !found.has(item.dataset.code);
    count.textContent = found.size === codes.length ? `${codes.length} languages` : `${found.size} of ${codes.length} languages`;
    list.scrollTop = 0;
  };
  field.addEventListener("focus", () => open(true));
  field.addEventListener("input", () => {
    open(true);
    filter();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const [first] = matching(field.value);
    if (first === undefined || !field.value.trim()) return;
    toggleLanguage(first);
    field.value = "";
    filter();
  });
  around.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !panel.hidden) {
      field.focus();
      open(false);
      event.stopPropagation();
      return;
    }
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const shown = [...list.children].filter((item) => !item.hidden).map((item) => item.querySelector("input"));
    const at = shown.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
    open(true);
    (at < 0 ? field : shown[Math.min(at, shown.length - 1)])?.focus();
    event.preventDefault();
  });
  document.addEventListener("pointerdown", (event) => around.contains(event.target) || open(false));
  around.addEventListener("focusout", (event) => event.relatedTarget && !around.contains(event.relatedTarget) && open(false));
  filter();
  return around;
}

// The chosen languages in the colours of their lines, each a button that takes it away.
function chips() {
  const place = element("div", { class: "chips", id: "chips", role: "group", "aria-label": "Chosen languages" });
  const update = () => {
    const colours = theme() === "dark" ? content.palette.map((hex) => content.recolour[hex] ?? hex) : content.palette;
    for (const [code, box] of boxes) box.checked = state.langs.includes(code);
    const made = state.langs.map((code, number) => {
      const mark = element("span", { class: "mark" });
      mark.style.background = colours[number % colours.length];
      return element("button", { type: "button", class: "chip", "aria-label": `Take away ${label(code)}`, onclick: () => toggleLanguage(code) }, mark, nameOf.get(code) || code, element("span", { "aria-hidden": "true" }, "×"));
    });
    if (made.length) made.push(element("button", { type: "button", id: "clear", onclick: () => change({ langs: [] }) }, "Clear"));
    place.replaceChildren(...made);
  };
  onChange((names) => (names.includes("langs") || names.includes("theme")) && update());
  update();
  return place;
}
