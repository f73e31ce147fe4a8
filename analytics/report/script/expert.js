// The panel of one expert: where it is used and by whom, its ranks, its role in the mask.

const languageColumns = content.datasets.expert_languages ? columnsOf(content.datasets.expert_languages) : null;
const maskColumns = content.datasets.mask ? columnsOf(content.datasets.mask) : null;
let openedFrom = null;

function expertRows(columns, layer, expert) {
  const layers = columns.get("layer");
  const experts = columns.get("expert");
  const found = [];
  for (let row = 0; row < layers.length; row += 1) if (layers[row] === layer && experts[row] === expert) found.push(row);
  return found;
}

function percent(part) {
  return part >= 0.1 ? `${(100 * part).toFixed(0)}%` : `${(100 * part).toPrecision(2)}%`;
}

function zoneOf(layer) {
  const zones = columnsOf(content.datasets.zones);
  const at = zones.get("start").findIndex((start, row) => start <= layer && layer <= zones.get("end")[row]);
  return at < 0 ? "no zone" : zones.get("zone")[at];
}

function usedBy(order, most, found) {
  const at = (name, row) => languageColumns.get(name)[row];
  const first = found.filter((row) => at(order, row) <= most && at("frequency", row) > 0).sort((a, b) => at(order, a) - at(order, b));
  const widest = Math.max(...first.map((row) => at("frequency", row)));
  const lines = first.map((row) => {
    const lang = at("lang", row);
    const bar = element("span", { class: "amount" });
    bar.style.width = `${(100 * at("frequency", row)) / widest}%`;
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, element("button", { type: "button", onclick: () => toggleLanguage(lang) }, label(lang)), bar),
      element("td", {}, `${at("specificity", row).toFixed(2)}×`),
      element("td", {}, percent(at("frequency", row))),
      element("td", {}, `${at("score_rank", row)}`),
      element("td", {}, `${at("frequency_rank", row)}`),
    );
  });
  const heads = ["language", "specificity", "of its tokens", "rank by score", "rank by use"];
  const words = order === "by_specificity" ? "Used most by, and most specific to" : "Ranks highest for";
  return element(
    "table",
    {},
    element("caption", {}, words),
    element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...lines),
  );
}

function facts(row, layer, expert) {
  const at = (name) => expertColumns.get(name)[row];
  const count = expertColumns.get("layer").length;
  const pairs = [
    ["Layer", `${layer}, ${zoneOf(layer)}`],
    ["Used for", `${percent(at("frequency"))} of the average language's tokens`],
    ["Used by", `${at("languages")} of ${codes.length} languages`],
    ["Rank by use", `${at("frequency_rank")} of ${count}`],
    ["Rank by overlap score", `${at("overlap_rank")} of ${count}`],
  ];
  if (maskColumns) {
    const [chosen] = expertRows(maskColumns, layer, expert);
    if (chosen === undefined) pairs.push(["In the mask", "no"]);
    else {
      const score = maskColumns.get("score")?.[chosen];
      pairs.push(["In the mask", `${maskColumns.get("role")[chosen]}${typeof score === "number" ? `, score ${score}` : ""}`]);
    }
  }
  return element("dl", { class: "facts" }, ...pairs.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

function step(by) {
  const names = [...expertNumber.keys()];
  change({ expert: names[(expertNumber.get(state.expert) + by + names.length) % names.length] });
}

function showExpert() {
  const panel = document.getElementById("expert");
  const row = expertNumber.get(state.expert);
  if (row === undefined) {
    if (panel.hidden) return;
    const inside = panel.contains(document.activeElement);
    panel.hidden = true;
    if (inside) openedFrom?.focus();
    return;
  }
  const [layer, expert] = state.expert.split(".").map(Number);
  const wasOpen = !panel.hidden;
  const focused = panel.contains(document.activeElement) ? document.activeElement.dataset.step : null;
  const button = (words, name, action) => element("button", { type: "button", "aria-label": name, "data-step": words, onclick: action }, words);
  const own = expertRows(languageColumns, layer, expert);
  const bar = element(
    "div",
    { class: "head" },
    element("h3", { id: "expert-title", tabindex: "-1" }, `Expert ${state.expert}`),
    button("‹", "The expert before", () => step(-1)),
    button("›", "The next expert", () => step(1)),
    button("×", "Close", () => change({ expert: null })),
  );
  const tables = own.some((at) => languageColumns.get("frequency")[at] > 0)
    ? [usedBy("by_specificity", content.first, own), usedBy("by_rank", content.first, own)]
    : [element("p", {}, "No language uses it.")];
  const note = element("p", { class: "note" }, "Specificity: of the average language's use. Ranks are among all experts of the run: by score as RISE does, by use as top-k does.");
  panel.replaceChildren(bar, facts(row, layer, expert), ...tables, note);
  if (!wasOpen) openedFrom = document.activeElement;
  panel.hidden = false;
  (panel.querySelector(`[data-step="${focused}"]`) ?? panel.querySelector("h3")).focus({ preventScroll: true });
  say(`Expert ${state.expert}`);
}
