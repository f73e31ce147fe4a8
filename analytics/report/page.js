(() => {
  "use strict";
  const content = JSON.parse(document.getElementById("content").textContent);

  // Vega writes into the rows it is given, so every chart gets rows of its own.
  function rows(packed) {
    const names = Object.keys(packed);
    const columns = names.map((name) => {
      const column = packed[name];
      return Array.isArray(column) ? column : column.codes.map((code) => column.levels[code]);
    });
    return columns.length ? columns[0].map((_, row) => Object.fromEntries(names.map((name, c) => [name, columns[c][row]]))) : [];
  }

  async function draw(figure) {
    const chart = document.getElementById(`${figure.name}-chart`);
    const datasets = Object.fromEntries(figure.datasets.map((name) => [name, rows(content.datasets[name])]));
    try {
      const { view } = await vegaEmbed(chart, { ...figure.spec, datasets: { ...figure.spec.datasets, ...datasets } }, {
        config: content.config,
        renderer: figure.renderer,
        actions: { export: true, source: false, compiled: false, editor: false },
        downloadFileName: figure.name,
        scaleFactor: { png: 2 },
        bind: document.getElementById(`${figure.name}-controls`),
        tooltip: { theme: "light" },
      });
      chart.setAttribute("role", "img");
      chart.setAttribute("aria-label", figure.spec.description);
      return view;
    } catch (error) {
      chart.className = "missing";
      chart.textContent = `This chart could not be drawn: ${error.message}`;
      throw error;
    }
  }

  async function drawAll() {
    const failed = [];
    for (const figure of content.figures) {
      try {
        await draw(figure);
      } catch (error) {
        failed.push(`${figure.name}: ${error.message}`);
      }
    }
    document.body.dataset.failed = failed.join("; ");
    document.body.dataset.drawn = String(content.figures.length - failed.length);
  }

  drawAll();
})();
