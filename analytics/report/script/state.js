// What the reader chose, and its copy in the URL's fragment: #langs=swh_Latn,deu_Latn&group=script&expert=3.17&
// theme=dark&at=pairs&pairs.measure=divergence. A fragment is anybody's text: what is not offered is left out.

const GROUPINGS = ["script", "cluster", "each"];
const THEMES = ["light", "dark"];
const LONGEST_FRAGMENT = 20000;
const state = { langs: [], group: null, theme: null, expert: null, at: null, params: new Map() };
const listeners = [];

function onChange(listener) {
  listeners.push(listener);
}

function change(changes) {
  Object.assign(state, changes);
  writeFragment();
  for (const listener of listeners) listener(Object.keys(changes));
}

function toggleLanguage(code) {
  const without = state.langs.filter((lang) => lang !== code);
  if (without.length < state.langs.length) return change({ langs: without });
  // A language that is chosen last is what a chart of one language shows, whatever was chosen there.
  const params = new Map([...state.params].filter(([key]) => !key.endsWith(".language")));
  change({ langs: [...without, code], params });
}

// The options of a figure's selectors: "pairs.measure" -> the values that it can have.
const offered = new Map();
for (const figure of content.figures) {
  for (const { name, bind } of figure.spec.params ?? []) {
    if (bind?.options) offered.set(`${figure.name}.${name}`, bind.options);
  }
}

function parseFragment(fragment) {
  const found = { langs: [], group: null, theme: null, expert: null, at: null, params: new Map() };
  if (fragment.length > LONGEST_FRAGMENT || !fragment.includes("=")) return found;
  const asked = new URLSearchParams(fragment);
  found.langs = [...new Set((asked.get("langs") ?? "").split(","))].filter((code) => nameOf.has(code));
  if (GROUPINGS.includes(asked.get("group"))) found.group = asked.get("group");
  if (THEMES.includes(asked.get("theme"))) found.theme = asked.get("theme");
  if (expertNumber.has(asked.get("expert"))) found.expert = asked.get("expert");
  if (content.sections.includes(asked.get("at"))) found.at = asked.get("at");
  for (const [key, options] of offered) {
    const option = options.find((each) => String(each) === asked.get(key));
    if (option !== undefined) found.params.set(key, option);
  }
  return found;
}

function fragmentOf(chosen) {
  const parts = new URLSearchParams();
  if (chosen.langs.length) parts.set("langs", chosen.langs.join(","));
  for (const name of ["group", "expert", "theme", "at"]) if (chosen[name]) parts.set(name, chosen[name]);
  for (const [key, value] of chosen.params) parts.set(key, value);
  return parts.toString().replaceAll("%2C", ",");
}

let written = null;
function writeFragment() {
  const fragment = fragmentOf(state);
  if (fragment === location.hash.slice(1)) return;
  written = fragment;
  try {
    history.replaceState(null, "", `#${fragment}`);
  } catch {
    location.replace(`#${fragment}`); // a browser that lets no script touch the history of a file
  }
}

function readFragment() {
  const fragment = location.hash.slice(1);
  if (fragment === written) return;
  written = fragment;
  Object.assign(state, parseFragment(fragment));
  for (const listener of listeners) listener(Object.keys(state));
}

// An expert as it is written, "3.17" -> its row in the table of experts.
const expertColumns = content.datasets.experts ? columnsOf(content.datasets.experts) : null;
const expertNumber = new Map(
  (expertColumns?.get("layer") ?? []).map((layer, row) => [`${layer}.${expertColumns.get("expert")[row]}`, row]),
);
