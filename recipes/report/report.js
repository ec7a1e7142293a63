"use strict";

// Text of prompts, responses and files is set with textContent only: it comes from a model or from data.

const report = JSON.parse(document.getElementById("report-data").textContent);
const LOWEST_LOGPROB = -5;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Curves

const AXIS = {
  gridcolor: "#eceeef",
  linecolor: "#c9cdd1",
  zerolinecolor: "#dfe2e4",
  tickfont: { size: 11, color: "#66707a" },
  automargin: true,
};

function drawCharts() {
  for (const figure of report.figures) {
    const layout = {
      margin: { l: 44, r: 10, t: 8, b: 34 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, color: "#20262c" },
      hovermode: "x unified",
      showlegend: false,
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 }, traceorder: "normal" },
      ...figure.layout,
      xaxis: { ...AXIS, title: { text: "step", font: { size: 11, color: "#66707a" }, standoff: 4 } },
      yaxis: { ...AXIS, ...figure.layout.yaxis },
    };
    Plotly.newPlot(`chart-${figure.name}`, figure.traces, layout, { responsive: true, displayModeBar: false });
  }
}

// Samples

function colourOf(logprob) {
  const share = Math.min(1, logprob / LOWEST_LOGPROB);
  return `rgba(224, 122, 47, ${(0.85 * Math.sqrt(Math.max(0, share))).toFixed(3)})`;
}

function tokenChip(text, logprob) {
  const visible = text.replace(/\r/g, "\u240d").replace(/\t/g, "\u21e5").replace(/\n/g, "\u21b5\n");
  const chip = element("span", "token", visible === "" ? "\u2205" : visible);
  if (logprob === null) {
    chip.classList.add("is-given");
    chip.dataset.tip = `${JSON.stringify(text)}\nnot written by the policy`;
  } else {
    chip.style.backgroundColor = colourOf(logprob);
    const percent = 100 * Math.exp(logprob);
    chip.dataset.tip = `${JSON.stringify(text)}\nlog-probability ${logprob.toFixed(3)} (${percent.toPrecision(3)} %)`;
  }
  return chip;
}

function responseOf(sample) {
  const response = element("div", "response");
  sample.tokens.forEach((token, position) => {
    if (position === sample.gap_after) {
      const leftOut = sample.length - sample.tokens.length;
      response.append(element("span", "gap", `\n[${leftOut} tokens left out]\n`));
    }
    response.append(tokenChip(report.token_texts[token], sample.logprobs[position]));
  });
  return response;
}

function factsOf(sample) {
  const facts = [`${sample.length} tokens`, sample.finish_reason];
  if (sample.policy_versions.length) facts.push(`policy ${sample.policy_versions.join(", ")}`);
  return facts.join(" \u00b7 ");
}

function sampleRow(sample) {
  const row = element("article", "sample");
  const reward = element("div", "reward", sample.reward === null ? "no reward" : sample.reward.toFixed(2));
  if (sample.reward !== null) reward.classList.add(sample.reward > 0 ? "is-good" : "is-bad");
  row.append(reward, responseOf(sample), element("div", "facts", factsOf(sample)));
  if (sample.error !== null) row.append(element("div", "error", sample.error));
  return row;
}

const FILTERS = {
  all: () => true,
  rewarded: (sample) => sample.reward !== null && sample.reward > 0,
  unrewarded: (sample) => sample.reward !== null && sample.reward <= 0,
  failed: (sample) => sample.reward === null,
};

function groupCard(group, samples) {
  const card = element("section", "group");
  const prompt = element("div", "prompt");
  prompt.append(element("pre", "", group.prompt));
  const rewards = group.samples.map((sample) => sample.reward).filter((reward) => reward !== null);
  const facts = group.label === null ? [] : [`Reference answer: ${group.label}`];
  if (rewards.length) {
    const mean = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
    facts.push(`mean reward of the ${rewards.length} samples here: ${mean.toFixed(2)}`);
  }
  prompt.append(element("p", "", facts.join(" \u00b7 ")));
  card.append(prompt, ...samples.map(sampleRow));
  return card;
}

function showStep(index) {
  const shown = report.steps[index];
  const filter = FILTERS[document.getElementById("reward-filter").value];
  const cards = [];
  for (const group of shown.groups) {
    const samples = group.samples.filter(filter);
    if (samples.length) cards.push(groupCard(group, samples));
  }
  const nothing = element("p", "empty", "No sample of this step is of this kind.");
  document.getElementById("groups").replaceChildren(...(cards.length ? cards : [nothing]));
  document.getElementById("step-name").textContent = `Step ${shown.step}`;
  document.getElementById("step-slider").value = String(index);
  document.getElementById("previous-step").disabled = index === 0;
  document.getElementById("next-step").disabled = index === report.steps.length - 1;
}

function connectControls() {
  const slider = document.getElementById("step-slider");
  const current = () => Number(slider.value);
  const last = report.steps.length - 1;
  slider.max = String(last);
  slider.addEventListener("input", () => showStep(current()));
  document.getElementById("previous-step").addEventListener("click", () => showStep(Math.max(0, current() - 1)));
  document.getElementById("next-step").addEventListener("click", () => showStep(Math.min(last, current() + 1)));
  document.getElementById("reward-filter").addEventListener("change", () => showStep(current()));
  const stops = [0, 0.25, 0.5, 0.75, 1].map((share) => colourOf(share * LOWEST_LOGPROB));
  document.getElementById("ramp").style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  document.getElementById("ramp-end").textContent = `${LOWEST_LOGPROB} and below`;
}

function connectTip() {
  const tip = document.getElementById("token-tip");
  const groups = document.getElementById("groups");
  groups.addEventListener("pointerover", (event) => {
    const chip = event.target.closest(".token");
    tip.hidden = chip === null;
    if (chip === null) return;
    tip.textContent = chip.dataset.tip;
    const place = chip.getBoundingClientRect();
    const left = Math.min(place.left, window.innerWidth - tip.offsetWidth - 8);
    const above = place.top - tip.offsetHeight - 6;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 0 ? above : place.bottom + 6}px`;
  });
  groups.addEventListener("pointerleave", () => { tip.hidden = true; });
  window.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
}

drawCharts();
if (report.steps.length) {
  connectControls();
  connectTip();
  showStep(0);
}
