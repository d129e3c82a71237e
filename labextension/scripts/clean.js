/**
 * Removes what a build writes: compiled sources and the prebuilt extension.
 */
import { rmSync } from 'node:fs';

const folder = new URL('..', import.meta.url);
for (const path of ['lib', 'tsconfig.tsbuildinfo', '../fastgpu_magics/labextension']) {
  rmSync(new URL(path, folder), { recursive: true, force: true });
}
