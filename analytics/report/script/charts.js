// Drawing the figures, each with what is chosen, and telling those that are drawn of a new choice.

const drawn = new Map(); // a figure's name -> its view
const byName = new Map(content.figures.map((figure) => [figure.name, figure]));
const dark = matchMedia("(prefers-color-scheme: dark)");

function theme() {
  return state.theme ?? (dark.matches ? "dark" : "light");
}

// Colours of the light page -> those of the dark one, wherever they stand in a spec.
function recoloured(value) {
  if (typeof value === "string") {
    if (Object.hasOwn(content.recolour, value)) return content.recolour[value];
    return value.includes("#") ? value.replace(/#[0-9a-f]{6}/g, (hex) => content.recolour[hex] ?? hex) : value;
  }
  if (Array.isArray(value)) return value.map(recoloured);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, recoloured(inner)]));
}

function grouping() {
  return state.group ?? (codes.length > content.languages.most_lines ? "script" : "each");
}

function groupsNow() {
  const groups = content.languages[grouping()]; // none for a line a language
  const groupOf = {};
  const sizes = new Map();
  codes.forEach((code, number) => {
    if (!groups) return;
    groupOf[`l:${code}`] = groups[number];
    sizes.set(groups[number], (sizes.get(groups[number]) ?? 0) + 1);
  });
  return { groupOf, groups: [...sizes.keys()].sort((a, b) => sizes.get(b) - sizes.get(a)) };
}

// The values of a figure's parameters: what is chosen on the page, and the figure's own where nothing is.
function parameters(figure) {
  const own = new Map((figure.spec.params ?? []).map((param) => [param.name, param.value]));
  const values = new Map();
  if (own.has("groupOf")) {
    const { groupOf, groups } = groupsNow();
    const native = groups.length > 0 === own.get("groups").length > 0;
    values.set("groupOf", groupOf).set("groups", groups).set("picked", state.langs.length > 0);
    values.set("chosen", state.langs.length ? state.langs : native ? own.get("chosen") : []);
  } else if (own.has("chosen")) {
    values.set("chosen", state.langs);
  }
  if (own.has("openLayer")) {
    const [layer, expert] = (state.expert ?? "-1.-1").split(".").map(Number);
    values.set("openLayer", layer).set("openExpert", expert);
  }
  for (const [key, value] of state.params) {
    const [name, parameter] = [key.slice(0, key.lastIndexOf(".")), key.slice(key.lastIndexOf(".") + 1)];
    if (name === figure.name) values.set(parameter, value);
  }
  const language = (figure.spec.params ?? []).find((param) => param.name === "language" && param.bind?.options);
  if (language && !values.has("language")) {
    values.set("language", state.langs.findLast((lang) => language.bind.options.includes(lang)) ?? language.value);
  }
  return values;
}

function specNow(figure) {
  const values = parameters(figure);
  const datasets = Object.fromEntries(figure.datasets.map((name) => [name, rows(name)]));
  const { datasets: inline, ...rest } = figure.spec;
  const params = (rest.params ?? []).map((param) => (values.has(param.name) ? { ...param, value: values.get(param.name) } : param));
  const spec = { ...rest, params };
  return { ...(theme() === "dark" ? recoloured(spec) : spec), datasets: { ...inline, ...datasets } };
}

async function draw(figure) {
  const chart = document.getElementById(`${figure.name}-chart`);
  drawn.get(figure.name)?.finalize();
  drawn.delete(figure.name);
  document.getElementById(`${figure.name}-controls`).replaceChildren();
  try {
    const { view } = await vegaEmbed(chart, specNow(figure), {
      config: theme() === "dark" ? content.dark : content.config,
      renderer: figure.renderer,
      actions: false,
      bind: document.getElementById(`${figure.name}-controls`),
      tooltip: { theme: theme(), formatTooltip: tooltip },
    });
    drawn.set(figure.name, view);
    for (const key of offered.keys()) {
      const parameter = key.slice(figure.name.length + 1);
      if (key !== `${figure.name}.${parameter}`) continue;
      view.addSignalListener(parameter, (_, value) => choose(key, value));
    }
    view.addEventListener("click", (_, item) => clicked(item?.datum?.datum ?? item?.datum));
  } catch (error) {
    chart.className = "missing";
    chart.textContent = `This chart could not be drawn: ${error.message}`;
    throw error;
  }
}

function choose(key, value) {
  if (state.params.get(key) === value || following) return;
  change({ params: new Map([...state.params, [key, value]]) });
}

// What a tooltip says, languages in words. Vega's own words for it, as text.
function tooltip(value, sanitize) {
  if (value === null || typeof value !== "object") return sanitize(value);
  const lines = Object.entries(value).map(([key, text]) => {
    const words = typeof text === "string" && nameOf.has(text) ? label(text) : text;
    return `<tr><td class="key">${sanitize(key)}</td><td class="value">${sanitize(words)}</td></tr>`;
  });
  return `<table>${lines.join("")}</table>`;
}

function clicked(datum) {
  if (!datum) return;
  const expert = `${datum.layer}.${datum.expert}`;
  const lang = datum.lang ?? datum.key;
  if (expertNumber.has(expert)) change({ expert });
  else if (nameOf.has(lang)) toggleLanguage(lang);
}

let following = 0; // while charts are told of a choice, what they say is no choice of the reader's
async function follow() {
  following += 1;
  const told = [...drawn].map(async ([name, view]) => {
    const changed = [...parameters(byName.get(name))].filter(([key, value]) => JSON.stringify(view.signal(key)) !== JSON.stringify(value));
    for (const [key, value] of changed) view.signal(key, value);
    if (changed.length) await view.runAsync();
  });
  await Promise.allSettled(told);
  following -= 1;
}

let drawing = 0;
async function drawAll() {
  drawing += 1;
  const mine = drawing;
  const failed = [];
  delete document.body.dataset.drawn;
  for (const figure of content.figures) {
    try {
      await draw(figure);
    } catch (error) {
      failed.push(`${figure.name}: ${error.message}`);
    }
    await new Promise((resolve) => setTimeout(resolve)); // so that the page answers while it draws
    if (mine !== drawing) return;
  }
  await follow();
  performance.mark("drawn");
  document.body.dataset.failed = failed.join("; ");
  document.body.dataset.drawn = String(content.figures.length - failed.length);
}
