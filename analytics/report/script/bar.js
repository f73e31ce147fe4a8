// The bar that stays at the top: languages, how lines are grouped, one expert, light or dark.

function select(id, words, options, value, chosen) {
  const made = element("select", { id, onchange: (event) => chosen(event.target.value) });
  for (const [name, shown] of options) made.append(element("option", { value: name }, shown));
  made.value = value();
  onChange(() => {
    made.value = value();
  });
  return element("div", { class: "choose" }, element("label", { for: id }, words), made);
}

function expertSearch() {
  const [example] = expertNumber.keys();
  const field = element("input", {
    type: "text",
    id: "expert-number",
    inputmode: "decimal",
    autocomplete: "off",
    size: "7",
    placeholder: example,
    "aria-describedby": "expert-error",
  });
  const error = element("span", { id: "expert-error", class: "error", role: "status" });
  const open = () => {
    const asked = field.value.trim().replace(/[\s:,/]+/, ".");
    const known = expertNumber.has(asked);
    field.toggleAttribute("aria-invalid", !known);
    error.textContent = known ? "" : `layer.expert, such as ${example}`;
    if (known) change({ expert: asked });
  };
  field.addEventListener("keydown", (event) => event.key === "Enter" && open());
  const button = element("button", { type: "button", onclick: open }, "Show");
  return element("div", { class: "choose" }, element("label", { for: "expert-number" }, "Expert"), field, button, error);
}

function themeToggle() {
  const button = element("button", { type: "button", id: "theme", onclick: () => change({ theme: theme() === "dark" ? "light" : "dark" }) });
  const update = () => {
    document.documentElement.dataset.theme = theme();
    button.textContent = theme() === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Show the page ${theme() === "dark" ? "light" : "dark"}`);
  };
  onChange((names) => names.includes("theme") && update());
  dark.addEventListener("change", () => {
    if (state.theme === null) change({ theme: null });
  });
  update();
  return button;
}

function bar() {
  const parts = [languagePicker()];
  if (codes.length > 2 && content.figures.some((figure) => figure.spec.params?.some((param) => param.name === "groupOf"))) {
    const options = [["each", "each language"], ["script", "by script"]];
    if (content.languages.cluster) options.push(["cluster", "by cluster"]);
    parts.push(select("group", "Lines", options, grouping, (group) => change({ group })));
  }
  if (expertColumns) parts.push(expertSearch());
  const link = element("button", { type: "button", id: "link", onclick: (event) => copy(location.href, event.currentTarget) }, "Copy link");
  document.getElementById("bar").append(...parts, link, themeToggle(), chips());
}
