// Figures, drawn one after the other once the text is on the screen, in the colours of the page.
const dark = matchMedia("(prefers-color-scheme: dark)");
const HATCH = "#1d2024"; // the card behind a bar shows through its hatching

// Colours of the figures' template, exchanged for those of the dark page; only under keys that name a colour.
const themed = (value, key) => {
  if (key === "fgcolor" && value === "white") return HATCH;
  if (typeof value === "string") return /color$/.test(key) && night[value] ? night[value] : value;
  if (Array.isArray(value)) return value.map((item) => themed(item, key));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, themed(item, name)]));
  }
  return value;
};

// Where there is little room the legend stands above the plot, an entry a line, and text is smaller.
const PAPER = 620, NARROW = 640, LINE = 20, PRINTED = 0.75; // of the height of a single panel is drawn on paper
const narrowed = ({ data, layout }) => {
  const named = layout.showlegend ? data.filter((trace) => trace.name && trace.showlegend !== false).length : 0;
  layout.legend = { ...layout.legend, orientation: "v", x: 0, xanchor: "left", y: 1, yanchor: "top", yref: "container", font: { size: 11 } };
  layout.margin = { ...layout.margin, t: 30 + LINE * named, l: 20, r: 12 };
  layout.height = (layout.height || 450) + LINE * named;
  layout.font = { size: 11 };
  const ticks = layout.xaxis?.ticktext;
  if (ticks?.some((text) => text.includes("<br>"))) { // numbered, and told below the axis
    const told = ticks.map((text, place) => `${place + 1}. ${text.replaceAll("<br>", " ")}`.replace(/(.{1,44})(?: |$)/g, "$1<br>"));
    layout.xaxis = { ...layout.xaxis, ticktext: told.map((_, place) => `${place + 1}.`), title: { text: told.join(""), font: { size: 10 } } };
    layout.height += 2 * LINE * told.length;
  }
};

const drawer = (figures) => (plot, isDark, width) => {
  const name = plot.dataset.figure;
  const copy = isDark ? themed(figures[name], "") : structuredClone(figures[name]);
  copy.layout.modebar = { bgcolor: "rgba(0,0,0,0)" };
  if (width) copy.layout.width = width;
  if (width && !copy.layout.yaxis2) copy.layout.height = PRINTED * (copy.layout.height || 450);
  if ((width || plot.clientWidth) < NARROW) narrowed(copy);
  Plotly.react(plot, copy.data, copy.layout, {
    displaylogo: false, displayModeBar: "hover", responsive: true,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: { filename: name.replaceAll("/", "_"), scale: 2 },
  });
};

const breath = () => new Promise((resolve) => setTimeout(resolve));
const drawn = async (figures) => {
  const plots = [...document.querySelectorAll(".plot[data-figure]")];
  if (!plots.length) return;
  const code = document.createElement("script");
  code.textContent = await unpack("plotly");
  document.head.append(code);
  const draw = drawer(figures), all = (isDark, width) => plots.forEach((plot) => draw(plot, isDark, width));
  for (const plot of plots) {
    draw(plot, dark.matches);
    await breath();
  }
  dark.addEventListener("change", () => all(dark.matches));
  addEventListener("beforeprint", () => all(false, PAPER));
  addEventListener("afterprint", () => all(dark.matches));
};

(async () => {
  const data = JSON.parse(await unpack("data"));
  await new Promise((resolve) => {
    requestAnimationFrame(() => setTimeout(resolve));
    setTimeout(resolve, 300); // a page in the background is never painted
  });
  tokenViewers(data.tokens);
  tables(data.tables);
  document.documentElement.dataset.rows = "ready";
  await drawn(data.figures);
  document.documentElement.dataset.figures = "ready";
})();
