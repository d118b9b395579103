//! The table as text.

use super::{MethodTable, TableRow};
use crate::features::Split;

/// Ranks of the paper's columns.
const PAPER_AT: [usize; 4] = [10, 20, 50, 100];

/// Formats a number with three significant digits or more and a unit prefix.
pub fn amount(n: usize) -> String {
    match n {
        1_000_000_000.. => format!("{:.2} G", n as f64 / 1e9),
        1_000_000.. => format!("{:.2} M", n as f64 / 1e6),
        1000.. => format!("{:.2} k", n as f64 / 1e3),
        _ => n.to_string(),
    }
}

impl TableRow {
    /// Cells of the row; `map_cell` formats mAP and the bounds of its interval.
    fn cells(&self, map_cell: impl Fn(f64, f64, f64) -> String) -> Vec<String> {
        let (image, video) = self.lengths;
        let lengths = if image == video { image.to_string() } else { format!("{image}-{video}") };
        let mut cells = vec![self.name.to_owned(), lengths];
        for (i, (_, map)) in self.map.iter().enumerate() {
            let (low, high) = self.interval.get(i).map_or((*map, *map), |(_, [low, high])| (*low, *high));
            cells.push(map_cell(*map, low, high));
        }
        cells.push(self.paper.map_or("-".to_owned(), |paper| paper.map(|x| format!("{x:.3}")).join(" / ")));
        cells.extend([amount(self.params), amount(self.flops)]);
        cells.extend([format!("{:.1} s", self.train_seconds), format!("{:.2} s", self.embed_seconds)]);
        cells.push(if self.seeds.is_empty() { "-".to_owned() } else { self.seeds.len().to_string() });
        cells
    }

    /// Cells of the row with intervals in brackets.
    pub fn plain_cells(&self) -> Vec<String> {
        self.cells(|map, low, high| format!("{map:.3} [{low:.3}, {high:.3}]"))
    }
}

impl MethodTable {
    /// Headers of the columns.
    pub fn headers(&self) -> Vec<String> {
        let mut headers = vec!["method".to_owned(), "lengths".to_owned()];
        headers.extend(self.rows.iter().take(1).flat_map(|row| row.map.iter().map(|(k, _)| format!("mAP@{k}"))));
        headers.push(format!("paper's mAP@{}", PAPER_AT.map(|k| k.to_string()).join("/")));
        headers.extend(["params", "FLOPs", "training", "embedding", "seeds"].map(str::to_owned));
        headers
    }

    /// Conditions of the measurement, as one paragraph.
    pub fn caption(&self) -> String {
        let any = |is: &dyn Fn(&TableRow) -> bool| self.rows.iter().any(is);
        let mut parts = vec![
            format!("mAP@k with normaliser {}, clips pooled by {}", self.normaliser, self.pooling),
            format!(
                "split {}, relevant is {}; {} queries ({} without a relevant video left out) against {} videos",
                self.split, self.relevant, self.queries, self.skipped_queries, self.gallery
            ),
        ];
        if self.split != Split::Test {
            parts.push(format!(
                "methods are trained or chosen on the split {}, which inflates their results",
                self.split
            ));
        }
        if self.shared_sources > 0 {
            parts.push(format!("{} videos of the split also occur in the training rows", self.shared_sources));
        }
        parts.push("intervals of 95 % by bootstrap over queries".to_owned());
        parts.push("params and FLOPs of one image and one video, including maps to other lengths".to_owned());
        if any(&|row| row.method == "cosine") {
            parts.push(match any(&|row| row.method == "cosine" && row.flops > 0) {
                true => "cosine maps images to the videos' length by least squares, about the training mean".to_owned(),
                false => "cosine compares the features as they are".to_owned(),
            });
        }
        if any(&|row| !row.epochs.is_empty()) {
            let kept = self.rows.iter().filter(|row| !row.epochs.is_empty()).map(|row| {
                let epochs: Vec<String> = row.epochs.iter().map(usize::to_string).collect();
                format!("{} {}", row.method, epochs.join("/"))
            });
            let kept: Vec<String> = kept.collect();
            parts.push(format!(
                "GMF starts from a closed form (epoch 0), and the best epoch in validation is kept: {}",
                kept.join(", ")
            ));
        }
        if any(&|row| row.paper.is_some()) {
            parts.push("the paper's numbers are on its own features and split".to_owned());
        }
        parts.join("; ") + "."
    }

    /// The table as Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let headers = self.headers();
        let mut text = line(&headers) + &line(&vec!["---".to_owned(); headers.len()]);
        text.extend(self.rows.iter().map(|row| line(&row.plain_cells())));
        text + "\n" + &self.caption() + "\n"
    }

    /// The table as LaTeX, for the package booktabs.
    pub fn latex(&self) -> String {
        let line = |cells: &[String]| format!("{} \\\\\n", cells.join(" & ").replace('%', "\\%"));
        let headers = self.headers();
        let mut text = format!("\\begin{{tabular}}{{ll{}}}\n\\toprule\n", "r".repeat(headers.len() - 2));
        text += &(line(&headers) + "\\midrule\n");
        for row in &self.rows {
            let cells = row.cells(|map, low, high| format!("{map:.3} {{\\scriptsize [{low:.3}, {high:.3}]}}"));
            text += &line(&cells);
        }
        text + "\\bottomrule\n\\end{tabular}\n% " + &self.caption() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_unit_prefixes() {
        assert_eq!(
            [0, 999, 1234, 329_472, 119_202_816, 238_000_000_000].map(amount),
            ["0", "999", "1.23 k", "329.47 k", "119.20 M", "238.00 G"]
        );
    }
}
