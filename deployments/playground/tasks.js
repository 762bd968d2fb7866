// The tasks as the page offers them. A test compares this table with the service's own.

const NAMES = {
  find: [
    ["object-detection"],
    ["region-proposal"],
    ["dense-region-caption"],
    ["caption-to-phrase-grounding", "text_input"],
    ["open-vocabulary-detection", "text_input"],
  ],
  read: [["ocr"], ["ocr-with-region"]],
  segment: [
    ["referring-expression-segmentation", "text_input"],
    ["region-to-segmentation", "region"],
  ],
  describe: [
    ["caption"],
    ["detailed-caption"],
    ["more-detailed-caption"],
    ["region-to-category", "region"],
    ["region-to-description", "region"],
  ],
};

export const APP = "fal-ai/florence-2-large";
export const GROUPS = Object.keys(NAMES);
/** Each task: its path, its group, and the input that it takes beside the picture, or "". */
export const TASKS = GROUPS.flatMap((group) => NAMES[group].map(([path, needs = ""]) => ({ path, group, needs })));

export const taskOf = (path) => TASKS.find((task) => task.path === path);
