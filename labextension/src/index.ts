/**
 * FastGPU in JupyterLab: the list of its plugins.
 */
import type { JupyterFrontEndPlugin } from '@jupyterlab/application';

import { notificationsPlugin } from './notifications.js';
import { statusBarPlugin } from './statusBar.js';

const plugins: JupyterFrontEndPlugin<void>[] = [statusBarPlugin, notificationsPlugin];

export default plugins;
