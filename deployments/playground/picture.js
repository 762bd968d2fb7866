// The picture that is asked about: from a file, the clipboard, a URL, a camera or a sample.

const LARGEST_SIDE = 4096; // of what is drawn; what is sent is the picture itself
const THUMBNAIL = 96;

/** Small pictures that the demo knows, with words and a region to ask about. */
export const SAMPLES = [
  { name: "shapes", file: "shapes.png", text: "orange circle", region: { x1: 15, y1: 15, x2: 247, y2: 248 } },
  { name: "words", file: "words.png", text: "purple word", region: { x1: 80, y1: 7, x2: 459, y2: 143 } },
  { name: "both", file: "both.png", text: "green square", region: { x1: 190, y1: 155, x2: 312, y2: 277 } },
];

/**
 * A picture: its `name`, its `blob` or its `url`, and where the browser can read it, its size in
 * pixels and the `image` to draw. Pixels are those that a person sees, after a photograph's turn.
 */
export async function fromBlob(blob, name) {
  const picture = { name: name || "picture.png", blob, url: "", image: null, width: 0, height: 0 };
  try {
    const bitmap = await createImageBitmap(blob);
    Object.assign(picture, { width: bitmap.width, height: bitmap.height, image: await reduced(bitmap) });
  } catch { /* a format that this browser does not read: the service may */ }
  return picture;
}

export async function fromUrl(url) {
  const name = decodeURIComponent(new URL(url).pathname.split("/").pop()) || "picture";
  const image = (await loaded(url, true)) ?? (await loaded(url, false));
  return { name, blob: null, url, image, width: image?.naturalWidth ?? 0, height: image?.naturalHeight ?? 0 };
}

export async function fromSample(sample) {
  const response = await fetch(sampleUrl(sample));
  return { ...(await fromBlob(await response.blob(), sample.file)), sample };
}

export const sampleUrl = (sample) => new URL(`samples/${sample.file}`, import.meta.url).href;

/** The picture among files that were dropped or pasted, if there is one. */
export const imageIn = (files) =>
  [...files].find((file) => file.type.startsWith("image/")) ?? [...files].find((file) => /\.(tiff?|bmp)$/i.test(file.name));

/** A small copy as a data URI; "" where there is nothing to draw. */
export function thumbnail(picture) {
  if (!picture.image) return "";
  const scale = THUMBNAIL / Math.max(picture.width, picture.height);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  canvas.getContext("2d").drawImage(picture.image, 0, 0, canvas.width, canvas.height);
  try {
    return canvas.toDataURL("image/jpeg", 0.7);
  } catch {
    return ""; // of another site, which does not allow it to be read
  }
}

async function reduced(bitmap) {
  const side = Math.max(bitmap.width, bitmap.height);
  if (side <= LARGEST_SIDE) return bitmap;
  const small = await createImageBitmap(bitmap, {
    resizeWidth: Math.round((bitmap.width * LARGEST_SIDE) / side),
    resizeHeight: Math.round((bitmap.height * LARGEST_SIDE) / side),
    resizeQuality: "medium",
  });
  bitmap.close();
  return small;
}

function loaded(url, readable) {
  return new Promise((resolve) => {
    const image = new Image();
    if (readable) image.crossOrigin = "anonymous"; // so that the canvas may be saved
    image.onload = () => resolve(image);
    image.onerror = () => resolve(null);
    image.src = url;
  });
}

/** Let `video` show the camera; what stops it. */
export async function openCamera(video) {
  const media = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  video.srcObject = media;
  await video.play();
  return () => media.getTracks().forEach((track) => track.stop());
}

/** What `video` shows, as a picture. */
export async function fromVideo(video) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  return fromBlob(blob, "camera.jpg");
}
