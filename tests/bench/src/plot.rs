//! A report as a picture: of each comparison a bar for each variant, with the quartiles of its samples.

use anyhow::{Error, Result};
use netloss_lab_measure::{Comparison, Report, figure};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: u32 = 860;
const BAR: u32 = 24;
const TITLE: u32 = 30;
const GAP: u32 = 12;

/// From here to the left are the names, from the other to the right the figures.
const LEFT: i32 = 250;
const RIGHT: i32 = 640;

/// The first is for what the others are held against.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x4c, 0x78, 0xa8),
    RGBColor(0xf5, 0x85, 0x18),
    RGBColor(0x54, 0xa2, 0x4b),
    RGBColor(0xb2, 0x79, 0xa2),
    RGBColor(0xe4, 0x57, 0x56),
    RGBColor(0x72, 0xb7, 0xb2),
];

/// Draws the comparisons that are drawn, one below the other.
///
/// # Errors
///
/// If plotters cannot.
pub(super) fn svg(report: &Report) -> Result<String> {
    let drawn: Vec<&Comparison> = report.comparisons.iter().filter(|comparison| comparison.drawn).collect();
    let height = drawn.iter().map(|comparison| panel_height(comparison)).sum::<u32>() + GAP;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE).map_err(|error| failed(&error))?;
        let mut rest = root;
        for comparison in drawn {
            let (panel, below) = rest.split_vertically(panel_height(comparison));
            draw(&panel, comparison).map_err(|error| failed(&error))?;
            rest = below;
        }
        rest.present().map_err(|error| failed(&error))?;
    }
    Ok(svg)
}

fn failed(error: &impl std::fmt::Display) -> Error {
    Error::msg(format!("cannot draw: {error}"))
}

fn rows(comparison: &Comparison) -> u32 {
    u32::try_from(comparison.variants.len()).unwrap_or(0)
}

fn panel_height(comparison: &Comparison) -> u32 {
    TITLE + GAP + BAR * rows(comparison)
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw<'a>(panel: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>, comparison: &Comparison) -> Drawn<'a> {
    let middle = |x: HPos| Pos::new(x, VPos::Center);
    let title = ("sans-serif", 15).into_font().style(FontStyle::Bold).color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
    let unit = if comparison.unit.is_empty() { String::new() } else { format!(", {}", comparison.unit) };
    panel.draw(&Text::new(format!("{}{unit}", comparison.what), (12, TITLE.cast_signed() / 2 + 4), title))?;
    let most = comparison.variants.iter().map(|variant| variant.quartiles[1].max(variant.median)).fold(f64::MIN_POSITIVE, f64::max);
    #[allow(clippy::cast_possible_truncation, reason = "within the picture")]
    let x = |value: f64| LEFT + (value / most * f64::from(RIGHT - LEFT)).round() as i32;
    for ((variant, colour), place) in comparison.variants.iter().zip(COLOURS.iter().cycle()).zip(0..) {
        let top = (TITLE + BAR * place).cast_signed();
        let y = top + BAR.cast_signed() / 2;
        let words = ("sans-serif", 13).into_font().color(&BLACK);
        panel.draw(&Text::new(variant.name.clone(), (LEFT - 8, y), words.pos(middle(HPos::Right))))?;
        panel.draw(&Rectangle::new([(LEFT, top + 4), (x(variant.median), top + BAR.cast_signed() - 4)], colour.filled()))?;
        let [low, high] = variant.quartiles.map(x);
        panel.draw(&PathElement::new([(low, y), (high, y)], BLACK))?;
        for end in [low, high] {
            panel.draw(&PathElement::new([(end, y - 4), (end, y + 4)], BLACK))?;
        }
        let figures = ("sans-serif", 13).into_font().color(&BLACK).pos(middle(HPos::Left));
        panel.draw(&Text::new(figure(variant.median), (high.max(x(variant.median)) + 8, y), figures))?;
    }
    Ok(())
}
