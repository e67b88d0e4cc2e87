"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const state = { x: "step", y: "linear", smooth: "off", hidden: new Set(), mark: null, pick: {} };
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 600px)");
  const figures = [...document.querySelectorAll("figure[data-figure]")];
  const near = new Set();
  let version = 1;
  document.body.dataset.version = "1";

  // Arrays of numbers are lists, or base64-encoded bytes.
  const types = { f4: Float32Array, f8: Float64Array, i1: Int8Array, i2: Int16Array, i4: Int32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };
  const decode = (given) => {
    if (!given || given.bdata === undefined) return given;
    const bytes = Uint8Array.from(atob(given.bdata), (letter) => letter.charCodeAt(0));
    return new types[given.dtype](bytes.buffer);
  };
  const column = (given, place) => {
    const flat = decode(given);
    if (!given || given.bdata === undefined) return flat.map((row) => row[place]);
    const width = Number(given.shape.split(",")[1]);
    return Array.from({ length: flat.length / width }, (_, row) => flat[row * width + place]);
  };

  const longest = Math.max(...data.runs.map((run) => run.seconds[run.seconds.length - 1]));
  const [unit, seconds] = longest > 7200 ? ["h", 3600] : longest > 120 ? ["min", 60] : ["s", 1];
  const titles = { step: "step", samples: "samples", time: `time (${unit})` };

  // Converts a run's steps to the selected x axis, with linear interpolation between known steps.
  const onAxis = (run, steps) => {
    const { steps: known, seconds: times, samples } = data.runs[run];
    if (state.x === "step" || (state.x === "samples" && !samples)) return steps;
    const values = state.x === "time" ? times : samples;
    const scale = state.x === "time" ? 1 / seconds : 1;
    let place = 0;
    return Array.from(steps, (step) => {
      if (step < known[place]) place = 0;
      while (place < known.length - 2 && known[place + 1] < step) place += 1;
      const next = Math.min(place + 1, known.length - 1);
      const width = known[next] - known[place];
      const share = width ? Math.min(Math.max((step - known[place]) / width, 0), 1) : 0;
      return (values[place] + share * (values[next] - values[place])) * scale;
    });
  };

  const recolour = (colour) => {
    if (Array.isArray(colour)) return colour.map(recolour);
    return (dark.matches && data.onDark[colour]) || colour;
  };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const coloured = (trace) => {
    const made = { ...trace, visible: true, y: decode(trace.y) };
    for (const key of ["line", "marker", "textfont"]) {
      if (made[key]) made[key] = { ...made[key], color: recolour(made[key].color) };
    }
    return made;
  };

  const lines = (trace) => {
    const made = coloured(trace);
    made.x = onAxis(trace.meta.run, decode(trace.x));
    const smooth = trace.customdata;
    delete made.customdata;
    if (state.smooth === "off" || !smooth) return [made];
    const faint = { ...made, opacity: 0.28, showlegend: false, hoverinfo: "skip", hovertemplate: undefined, line: { ...made.line, width: 1 } };
    return [faint, { ...made, y: column(smooth, state.smooth === "some" ? 0 : 1), line: { ...made.line, width: 2 } }];
  };

  const picture = (trace, kind) => {
    const made = coloured(trace);
    made.x = onAxis(trace.meta.run, decode(trace.x));
    if (kind === "histograms" && trace.type === "heatmap") made.colorscale = [[0, css("--card")], [0.25, dark.matches ? "#1d4468" : "#bcd8ee"], [1, dark.matches ? "#7cc0f8" : "#00558a"]];
    if (made.colorbar) made.colorbar = { ...made.colorbar, tickfont: { color: css("--quiet"), size: 11 } };
    return [made];
  };

  // With several runs the legend explains the dashes; the controls show the colours of the runs.
  const kinds = (traces, made) => {
    const dashes = new Map(traces.filter((trace) => trace.meta.label).map((trace) => [trace.meta.label, trace.line.dash]));
    traces.forEach((trace) => { trace.showlegend = false; });
    made.showlegend = dashes.size > 1;
    return [...dashes].map(([name, dash]) => ({ x: [null], y: [null], name, mode: "lines", line: { color: css("--quiet"), dash }, hoverinfo: "skip", meta: {} }));
  };

  const chosen = (name) => {
    const traces = data.figures[name].data.filter((trace) => !state.hidden.has(trace.meta.run) || trace.meta.pick);
    if (!traces.length || !traces[0].meta.pick) return traces;
    const section = document.getElementById(`figure-${name}`).closest("section").id;
    const wanted = state.pick[section] || {};
    const fits = (pick, one) => Object.entries(one).every(([key, value]) => pick[key] === value);
    const pick = traces.map((trace) => trace.meta.pick).find((one) => fits(wanted, one)) || traces[0].meta.pick;
    return traces.filter((trace) => fits(pick, trace.meta.pick));
  };

  const layoutOf = (given, kind) => {
    const quiet = css("--quiet");
    const axis = { gridcolor: css("--line"), zeroline: false, linecolor: css("--line"), tickfont: { color: quiet, size: 11 }, automargin: true };
    const over = kind !== "curve";
    const x = { ...axis, ...given.xaxis, title: { text: over ? titles[state.x] : given.xaxis.title.text, font: { size: 12, color: quiet }, standoff: 6 }, showgrid: false, ticks: "outside", tickcolor: css("--line"), ticklen: 4, nticks: narrow.matches ? 5 : 9 };
    if (given.showlegend && narrow.matches) x.title.text = "";
    const y = { ...axis, ...given.yaxis, title: { text: (given.yaxis.title || {}).text || "", font: { size: 12, color: quiet }, standoff: 4 } };
    if (kind === "lines") Object.assign(y, { type: state.y, exponentformat: "power", minexponent: 5, tickformat: state.y === "log" && !given.yaxis.tickformat ? "~g" : given.yaxis.tickformat });
    const made = {
      ...given, xaxis: x, yaxis: y, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", template: null,
      font: { family: getComputedStyle(document.body).fontFamily, color: css("--text"), size: 12 },
      margin: { l: 44, r: 14, t: given.showlegend ? 26 : 10, b: 40 },
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", font: { size: 12 }, bgcolor: "rgba(0,0,0,0)" },
      hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--text"), size: 12 } },
      uirevision: `${state.x} ${state.y}`, dragmode: narrow.matches ? false : "zoom",
    };
    if (kind === "heat" || kind === "histograms") made.plot_bgcolor = css("--card");
    if (kind === "heat") made.yaxis.tickfont = { color: quiet, size: narrow.matches ? 10 : 11 };
    if (state.mark && over) {
      const [at] = onAxis(state.mark.run, [state.mark.step]);
      made.shapes = [{ type: "line", x0: at, x1: at, yref: "paper", y0: 0, y1: 1, line: { color: quiet, width: 1.5, dash: "dot" } }];
    }
    return made;
  };

  // Plotly takes the room for the legend from the lines. It makes columns of the longest name where one row is too short.
  const legendRows = (traces, made, width) => {
    const names = made.showlegend ? traces.filter((trace) => trace.showlegend !== false).map((trace) => trace.name || "") : [];
    if (!names.length) return 1;
    const widths = names.map((name) => 46 + 6.6 * name.length), room = width - 58;
    if (widths.reduce((sum, one) => sum + one, 0) <= room) return 1;
    return Math.ceil(names.length / Math.max(1, Math.floor(room / Math.max(...widths))));
  };

  const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"] };
  const draw = (figure) => {
    const drawn = String(version);
    if (figure.dataset.version === drawn) return;
    figure.dataset.version = drawn;
    const { layout } = data.figures[figure.dataset.figure];
    const kind = layout.meta.kind;
    const build = kind === "lines" ? lines : kind === "curve" ? (trace) => [coloured(trace)] : (trace) => picture(trace, kind);
    const traces = chosen(figure.dataset.figure).flatMap(build);
    const plot = figure.querySelector(".plot");
    const made = layoutOf(layout, kind);
    if (kind === "lines" && data.runs.length > 1) traces.push(...kinds(traces, made));
    plot.style.height = made.height ? `${made.height}px` : "";
    const below = 18 * (legendRows(traces, made, plot.clientWidth) - 1);
    if (!made.height && below > 0) plot.style.height = `${plot.clientHeight + below}px`;
    Plotly.react(plot, traces, made, config).then(() => { figure.dataset.drawn = drawn; });
  };
  const redraw = () => {
    version += 1;
    document.body.dataset.version = String(version);  // other figures are redrawn when they scroll near
    near.forEach(draw);
  };

  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { near.add(entry.target); draw(entry.target); } else near.delete(entry.target);
    }
  }, { rootMargin: "400px" });

  const press = (buttons, pressed) => buttons.forEach((one) => one.setAttribute("aria-pressed", String(one === pressed)));
  const remember = () => {
    if (data.refresh === null) return;
    const kept = new URLSearchParams({ x: state.x, y: state.y, smooth: state.smooth });
    history.replaceState(null, "", `#${kept}`);
  };
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const group of document.querySelectorAll("[data-switch]")) {
    const key = group.dataset.switch;
    const buttons = [...group.querySelectorAll("button")];
    for (const button of buttons) {
      if (button.dataset.value === "samples" && !data.runs.every((run) => run.samples)) {
        button.disabled = true;
        button.title = "Not all runs logged their number of samples";
      }
      button.addEventListener("click", () => { state[key] = button.dataset.value; press(buttons, button); remember(); redraw(); });
      if (kept.get(key) === button.dataset.value && !button.disabled) { state[key] = button.dataset.value; press(buttons, button); }
    }
  }
  for (const button of document.querySelectorAll("[data-toggle]")) {
    button.addEventListener("click", () => {
      const run = Number(button.dataset.toggle);
      const shown = state.hidden.delete(run);
      if (!shown) state.hidden.add(run);
      button.setAttribute("aria-pressed", String(shown));
      redraw();
    });
  }
  for (const button of document.querySelectorAll(".step")) {
    button.addEventListener("click", () => {
      state.mark = { run: Number(button.dataset.run), step: Number(button.dataset.step) };
      redraw();
      const training = document.getElementById("training");
      if (training) training.scrollIntoView({ behavior: "smooth" });
    });
  }
  for (const section of document.querySelectorAll("section")) {
    const values = {};
    for (const figure of section.querySelectorAll("figure[data-figure]")) {
      for (const trace of data.figures[figure.dataset.figure].data) {
        for (const [key, value] of Object.entries(trace.meta.pick || {})) (values[key] = values[key] || new Set()).add(value);
      }
    }
    state.pick[section.id] = {};
    for (const [key, options] of Object.entries(values)) {
      state.pick[section.id][key] = [...options][0];
      if (options.size < 2) continue;
      const label = document.createElement("label");
      const select = document.createElement("select");
      select.name = key;
      label.textContent = key;
      for (const option of options) select.add(new Option(option, option));
      select.addEventListener("change", () => { state.pick[section.id][key] = select.value; redraw(); });
      label.append(select);
      section.querySelector(".pickers").append(label);
    }
  }
  const paint = () => {
    for (const dot of document.querySelectorAll("[data-colour]")) dot.style.background = recolour(dot.dataset.colour);
  };
  dark.addEventListener("change", () => { paint(); redraw(); });
  narrow.addEventListener("change", redraw);
  paint();
  figures.forEach((figure) => observer.observe(figure));

  if (data.refresh !== null) {
    const reload = () => { if (document.visibilityState === "visible") location.reload(); };
    setTimeout(() => { reload(); document.addEventListener("visibilitychange", reload); }, data.refresh * 1000);
  }
})();
