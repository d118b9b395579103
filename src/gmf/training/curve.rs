//! The learning curve, as CSV and as SVG.

use std::fmt::Write as _;
use std::path::Path;

use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use super::loss::Losses;
use crate::base::files;

/// Means over the steps since the previous point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Number of steps since the start of training.
    pub step: usize,
    /// Epoch, from 1; 0 before the first step.
    pub epoch: usize,
    /// Learning rate.
    pub rate: f64,
    /// Mean losses; absent before the first step.
    pub losses: Option<Losses>,
    /// mAP@10 on the validation split, at the end of an epoch.
    pub map10: Option<f64>,
}

/// All points of a training run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LearningCurve {
    /// Points in order of steps.
    pub points: Vec<CurvePoint>,
}

impl LearningCurve {
    /// CSV with the header `step,epoch,rate,loss,dissociation,task,map10`; an absent value is empty.
    pub fn csv(&self) -> String {
        let mut text = "step,epoch,rate,loss,dissociation,task,map10\n".to_owned();
        for p in &self.points {
            let losses = p.losses.map_or(",,".to_owned(), |l| format!("{},{},{}", l.total, l.dissociation, l.task));
            let map = p.map10.map_or(String::new(), |m| m.to_string());
            let _ = writeln!(text, "{},{},{},{losses},{map}", p.step, p.epoch, p.rate);
        }
        text
    }

    /// SVG with the losses in the upper chart and mAP@10 in the lower chart, over steps.
    pub fn svg(&self) -> String {
        let mut svg = String::new();
        // Drawing into a string cannot fail: it uses no file and no font.
        self.draw(&mut svg).expect("drawing into a string");
        svg
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error + '_>> {
        let last = self.points.last().map_or(1, |p| p.step.max(1)) as f64;
        let losses: Vec<(f64, Losses)> =
            self.points.iter().filter_map(|p| p.losses.map(|l| (p.step as f64, l))).collect();
        let highest = losses.iter().map(|(_, l)| l.total).fold(1e-6, f64::max);
        let root = SVGBackend::with_string(svg, (800, 600)).into_drawing_area();
        root.fill(&WHITE)?;
        let (above, below) = root.split_vertically(330);
        let mut chart = ChartBuilder::on(&above)
            .margin(12)
            .caption("Losses (means) and validation mAP@10 over steps", ("sans-serif", 18))
            .x_label_area_size(24)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..last, 0.0..highest * 1.05)?;
        chart.configure_mesh().light_line_style(WHITE).draw()?;
        for (name, colour) in [("loss", BLACK), ("dissociation", RED), ("task", BLUE)] {
            let value = |l: &Losses| match name {
                "loss" => l.total,
                "dissociation" => l.dissociation,
                _ => l.task,
            };
            let line: Vec<(f64, f64)> = losses.iter().map(|(step, l)| (*step, value(l))).collect();
            chart
                .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
        let mut chart = ChartBuilder::on(&below)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..last, 0.0..1.0)?;
        chart.configure_mesh().light_line_style(WHITE).x_desc("steps").y_desc("mAP@10").draw()?;
        let maps: Vec<(f64, f64)> = self.points.iter().filter_map(|p| p.map10.map(|m| (p.step as f64, m))).collect();
        chart.draw_series(LineSeries::new(maps.iter().copied(), BLUE.stroke_width(2)))?;
        chart.draw_series(maps.iter().map(|at| Circle::new(*at, 3, BLUE.filled())))?;
        root.present()?;
        Ok(())
    }

    /// Writes the CSV and the SVG next to a checkpoint.
    pub(super) fn save(&self, checkpoint: &Path) -> std::io::Result<()> {
        for (ending, text) in [("csv", self.csv()), ("svg", self.svg())] {
            files::replace(&checkpoint.with_extension(ending), |part| std::fs::write(part, &text))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_and_svg_contain_every_point() {
        let losses = Losses { total: 3.0, dissociation: 1.0, task: 2.0 };
        let curve = LearningCurve {
            points: vec![
                CurvePoint { step: 0, epoch: 0, rate: 0.01, losses: None, map10: Some(0.25) },
                CurvePoint { step: 5, epoch: 1, rate: 0.01, losses: Some(losses), map10: None },
                CurvePoint { step: 10, epoch: 1, rate: 0.001, losses: Some(losses), map10: Some(0.5) },
            ],
        };
        assert_eq!(
            curve.csv(),
            "step,epoch,rate,loss,dissociation,task,map10\n0,0,0.01,,,,0.25\n5,1,0.01,3,1,2,\n10,1,0.001,3,1,2,0.5\n"
        );
        let svg = curve.svg();
        assert!(svg.starts_with("<svg") && svg.contains("mAP@10") && svg.contains("dissociation"));
        // Counts lines of two or more points. Each series has one, and one in the legend, which an empty
        // curve has as well.
        let lines = |svg: &str, colour: &str| {
            let points = |line: &str| {
                line.split("points=\"")
                    .nth(1)
                    .map_or(0, |p| p.split('"').next().unwrap_or("").split_whitespace().count())
            };
            svg.split("<polyline").skip(1).filter(|line| line.contains(colour) && points(line) >= 2).count()
        };
        let empty = LearningCurve::default().svg();
        for (colour, series) in [("#0000FF", 2), ("#FF0000", 1)] {
            assert_eq!(lines(&svg, colour), lines(&empty, colour) + series, "{svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(LearningCurve::default().svg().contains("</svg>"));
    }
}
