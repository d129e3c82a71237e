/**
 * FastGPU in JupyterLab: the list of its plugins.
 */
import type { JupyterFrontEndPlugin } from '@jupyterlab/application';

import { statusBarPlugin } from './statusBar.js';

const plugins: JupyterFrontEndPlugin<void>[] = [statusBarPlugin];

export default plugins;
