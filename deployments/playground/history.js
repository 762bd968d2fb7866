// The last runs, kept in this browser and nowhere else.

const DATABASE = "florence";
const RUNS = "runs";
const MOST = 20;

/** Keep a run: its time, picture, input and answers. It is lost where the browser keeps nothing. */
export async function remember(run) {
  try {
    await using("readwrite", (runs) => runs.add(run));
    const keys = await using("readonly", (runs) => runs.getAllKeys());
    await using("readwrite", (runs) => keys.slice(0, -MOST).map((key) => runs.delete(key)).at(-1));
  } catch { /* a private window, or no room */ }
}

/** The runs that are kept, the last one first. */
export async function remembered() {
  try {
    return (await using("readonly", (runs) => runs.getAll())).reverse();
  } catch {
    return [];
  }
}

export async function forgetAll() {
  try {
    await using("readwrite", (runs) => runs.clear());
  } catch { /* there is nothing */ }
}

async function using(mode, work) {
  const database = await opened();
  try {
    return await settled(work(database.transaction(RUNS, mode).objectStore(RUNS)));
  } finally {
    database.close();
  }
}

function opened() {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(RUNS, { autoIncrement: true });
  return settled(request);
}

function settled(request) {
  if (!request) return Promise.resolve();
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
