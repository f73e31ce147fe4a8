// The page begins: what the fragment asks for, then the bar, then the charts, one after the other.

Object.assign(state, parseFragment(location.hash.slice(1)));
written = location.hash.slice(1);
bar();
content.figures.forEach(tools);

let lastTheme = theme();
onChange((names) => {
  if (names.includes("expert")) showExpert();
  if (theme() !== lastTheme) {
    lastTheme = theme();
    drawAll();
  } else follow();
  if (names.includes("at") && state.at) document.getElementById(state.at).scrollIntoView();
});
addEventListener("hashchange", readFragment);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.expert) change({ expert: null });
});
for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    const at = link.getAttribute("href").slice(1);
    change({ at });
    document.getElementById(at).focus({ preventScroll: true });
  });
}

showExpert();
const begun = state.at;
drawAll().then(() => begun && begun === state.at && document.getElementById(begun).scrollIntoView());
document.body.dataset.ready = "";
performance.mark("ready");
