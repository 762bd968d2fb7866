// What an answer shows, as shapes; and shapes as COCO.

// Okabe and Ito's colours, told apart with any colour vision; each is drawn on a dark line.
export const COLOURS = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#ff7043", "#4d8dff", "#ffffff"];

const KINDS = { bboxes: "box", quad_boxes: "quad", polygons: "polygon" };

/** The shapes of an output, in its order; none where it is a text. */
export function shapesOf(output) {
  const results = output?.results;
  if (!results || typeof results === "string") return [];
  return Object.entries(KINDS).flatMap(([name, kind]) => (results[name] ?? []).map((item) => shape(kind, item)));
}

function shape(kind, item) {
  const points = item.points ?? corners(item);
  return { kind, points, label: item.label ?? "", score: item.score ?? null, box: around(points) };
}

const corners = ({ x, y, w, h }) => [{ x, y }, { x: x + w, y }, { x: x + w, y: y + h }, { x, y: y + h }];

function around(points) {
  const xs = points.map((p) => p.x);
  const ys = points.map((p) => p.y);
  const [x, y] = [Math.min(...xs), Math.min(...ys)];
  return { x, y, w: Math.max(...xs) - x, h: Math.max(...ys) - y };
}

/** A colour for each shape: one for each label, or the next one where there are no labels. */
export function colour(shapes) {
  const labels = [...new Set(shapes.map((each) => each.label).filter(Boolean))];
  shapes.forEach((each, n) => {
    const number = each.label ? labels.indexOf(each.label) : n;
    each.colour = COLOURS[number % COLOURS.length];
  });
}

/** Whether `point` is in `shape`. */
export function holds({ points }, { x, y }) {
  let inside = false;
  points.forEach((a, n) => {
    const b = points[(n + 1) % points.length];
    if (a.y > y !== b.y > y && x < ((b.x - a.x) * (y - a.y)) / (b.y - a.y) + a.x) inside = !inside;
  });
  return inside;
}

/** One image's shapes as a COCO data set. */
export function coco(picture, shapes) {
  const names = [...new Set(shapes.map((each) => each.label))];
  return {
    images: [{ id: 1, file_name: picture.name, width: picture.width, height: picture.height }],
    categories: names.map((name, n) => ({ id: n + 1, name })),
    annotations: shapes.map((each, n) => ({
      id: n + 1,
      image_id: 1,
      category_id: names.indexOf(each.label) + 1,
      bbox: [each.box.x, each.box.y, each.box.w, each.box.h],
      area: area(each.points),
      iscrowd: 0,
      segmentation: each.kind === "box" ? [] : [each.points.flatMap(({ x, y }) => [x, y])],
      ...(each.score === null ? {} : { score: each.score }),
    })),
  };
}

function area(points) {
  const twice = points.reduce((sum, a, n) => {
    const b = points[(n + 1) % points.length];
    return sum + a.x * b.y - b.x * a.y;
  }, 0);
  return Math.abs(twice) / 2;
}
