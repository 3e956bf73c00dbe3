// What `npm run models` prints about a result.
import type { LocalModel, ModelsReport } from '../../workers/messages/models.ts';
import { formatSize } from '../progress.ts';

/** False when verify found a wrong file. */
export function isSuccess(report: ModelsReport): boolean {
  return report.kind !== 'verify' || report.files.every(({ isRight }) => isRight);
}

/** Lines for people. */
export function reportLines(report: ModelsReport, modelsDir: string): string[] {
  switch (report.kind) {
    case 'list':
      return listLines(report.models, modelsDir);
    case 'pull':
      return [`${formatSize(report.bytes)} in ${report.directory}`];
    case 'verify': {
      const wrong = report.files.filter(({ isRight }) => !isRight);
      if (wrong.length === 0) return [`${report.files.length} files are right`];
      const lines = wrong.map(({ path, commit }) => `wrong: ${path} (commit ${commit.slice(0, 8)})`);
      return [...lines, `${wrong.length} of ${report.files.length} files are wrong; pull downloads them again`];
    }
    case 'remove':
      return [`removed; ${formatSize(report.bytes)} are free again`];
  }
}

function listLines(models: readonly LocalModel[], modelsDir: string): string[] {
  if (models.length === 0) return [`no models of the hub in ${modelsDir}`];
  const rows = models.map((model) => [
    model.id,
    model.revisions.join(', ') || '-',
    model.commit.slice(0, 8),
    formatSize(model.bytes),
    model.state,
    model.compiled.length === 0 ? '-' : `${model.compiled.length} (${formatSize(compiledBytes(model))})`,
  ]);
  const table = [['model', 'revision', 'commit', 'size', 'state', 'compiled'], ...rows];
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]!.length)));
  return table.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join('  ')
      .trimEnd(),
  );
}

function compiledBytes({ compiled }: LocalModel): number {
  return compiled.reduce((sum, { bytes }) => sum + bytes, 0);
}
