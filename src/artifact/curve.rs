//! The loss curve as an SVG.

use plotters::prelude::*;

/// An SVG of training loss and held-out loss over steps. `train` and `heldout` are (step, nats per token).
/// `None` when there are fewer than two points to draw or the drawing library refuses them.
pub fn svg(title: &str, train: &[(usize, f64)], heldout: &[(usize, f64)]) -> Option<String> {
    let values = || train.iter().chain(heldout).map(|p| p.1).filter(|v| v.is_finite());
    let last = train.iter().chain(heldout).map(|p| p.0).max()?;
    let top = values().fold(f64::NEG_INFINITY, f64::max);
    if train.len() < 2 || !top.is_finite() {
        return None;
    }
    let mut text = String::new();
    draw(&mut text, title, (last, top * 1.05), train, heldout).ok()?;
    Some(text)
}

type Failed = Box<dyn std::error::Error>;

fn draw(
    text: &mut String,
    title: &str,
    (last, top): (usize, f64),
    train: &[(usize, f64)],
    heldout: &[(usize, f64)],
) -> Result<(), Failed> {
    let root = SVGBackend::with_string(text, (760, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0usize..last, 0f64..top)?;
    chart.configure_mesh().x_desc("step").y_desc("loss, nats per trained token").light_line_style(WHITE).draw()?;
    let line = |points: &[(usize, f64)], style: ShapeStyle| LineSeries::new(points.to_vec(), style);
    chart
        .draw_series(line(train, BLUE.mix(0.45).stroke_width(1)))?
        .label("training")
        .legend(|(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], BLUE.mix(0.45)));
    if !heldout.is_empty() {
        chart
            .draw_series(line(heldout, RED.stroke_width(2)))?
            .label("held out")
            .legend(|(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], RED));
    }
    chart.configure_series_labels().border_style(BLACK.mix(0.3)).background_style(WHITE).draw()?;
    root.present()?;
    drop(chart);
    Ok(())
}
