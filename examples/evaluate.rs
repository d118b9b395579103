//! Writes a small feature set, then measures cosine and canonical correlation analysis on it:
//!
//! ```text
//! cargo run --release --example evaluate
//! ```

use reelseek::features::{FeatureLine, FeatureSet, FeatureWriter, Split};
use reelseek::gmf::{TrainOptions, TrainingData};
use reelseek::research::eval::methods::TrainingContext;
use reelseek::research::eval::table::{self, TablePlan};
use reelseek::research::eval::task::RetrievalTask;

/// 240 rows of features around the means of 8 classes.
fn write_table(
    folder: &std::path::Path,
    name: &'static str,
    length: usize,
) -> Result<FeatureWriter, Box<dyn std::error::Error>> {
    let mut writer = FeatureWriter::create(folder, name)?;
    for row in 0..240 {
        let noise = |i: usize| ((row * 31 + i * 17) % 23) as f32 / 10.0 - 1.1;
        let mean = |i: usize| ((row % 8 * 5 + i * 3) % 7) as f32 / 3.0;
        let features: Vec<f32> = (0..length).map(|i| mean(i) + noise(i)).collect();
        let split = if row < 160 { Split::Train } else { Split::Test };
        let labels = vec![format!("class {}", row % 8)];
        let line = FeatureLine { labels, split: Some(split), ..FeatureLine::new(format!("{name}{row}")) };
        writer.push(&line, &features)?;
    }
    Ok(writer)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    FeatureWriter::finish([write_table(folder.path(), "images", 6)?, write_table(folder.path(), "videos", 16)?])?;

    let set = FeatureSet::open(folder.path())?;
    let task = RetrievalTask::new(&set, Split::Test)?;
    let data = TrainingData::new(&set, 0.1, 1)?;
    let training = TrainingContext::new(data, TrainOptions::default());
    let plan = TablePlan { methods: vec!["cosine".into(), "cca".into()], ..TablePlan::default() };
    let (table, best) = table::make(&task, &training, &plan)?;
    print!("{}\nBest: {} with mAP@10 {:.3}\n", table.markdown(), best.method, best.map);
    Ok(())
}
