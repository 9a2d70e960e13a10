// The page: what the server can do is offered, in tabs where it is more than restoring.

import * as client from "./client.js";
import { complain, look, mega, server, ui } from "./easel.js";
import { extending } from "./extending.js";
import { filling } from "./filling.js";
import { restoring } from "./restoring.js";
import { tabs } from "./tabs.js";

const TITLES = { restore: "Restore a photograph", fill: "Fill in a photograph", extend: "Extend a photograph" };

try {
  Object.assign(server, await client.about());
  const { limits } = server;
  ui.allowed.textContent += `; at most ${mega(limits.bytes)} MB and ${mega(limits.pixels)} megapixels`;
  restoring();
  const views = {};
  if (server.can_fill) views.fill = filling();
  if (server.can_extend) views.extend = extending();
  for (const name of ["fill", "extend"]) ui[`tab-${name}`].hidden = !views[name];
  if (views.fill || views.extend) {
    let current = "restore";
    tabs(ui.tabs, tab => {
      current = tab.id.replace("tab-", "");
      ui.title.textContent = document.title = TITLES[current];
      ui.problem.hidden = true;
      views.fill?.enter(current === "fill");
      look(current);
    });
    ui.another.addEventListener("click", () => views[current].seeded.again(1));
    ui.former.addEventListener("click", () => views[current].seeded.again(-1));
    ui.estimate.textContent = "Restored detail is an estimate, and what is filled in or added is made up: not for evidence, diagnosis "
      + "or measurement.";
  }
} catch (error) {
  complain(error);
}
ui.promise.textContent = `The photograph goes to ${location.host} and nowhere else. There it is held in memory while it is worked on, `
  + "and never written to disk.";
