//! How a contender looks in every plot: a colour for its store, a line and a shape for its durability.

use crate::bench::contender::{Described, Promise};
use crate::bench::document::Document;

/// Colours in the style sheet, `c0` and so on; one more is grey.
const COLOURS: usize = 7;
const DASHES: [&str; 3] = ["none", "6 3", "2 3"];

/// A contender's looks.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) name: String,
    /// A class of the style sheet.
    pub(super) colour: String,
    /// Which of those that have the same colour.
    pub(super) variant: usize,
}

impl Look {
    pub(super) fn dash(&self) -> &'static str {
        DASHES[self.variant % DASHES.len()]
    }

    /// A point, for a plot of lines or of rounds.
    pub(super) fn mark(&self, x: f64, y: f64, size: f64) -> String {
        let Self { colour, variant, .. } = self;
        let hollow = if *variant == 0 { "" } else { " hollow" };
        format!("<circle class=\"mark {colour}{hollow}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{size}\">")
    }
}

/// All of the document's, in its order.
pub(super) fn looks(document: &Document) -> Vec<Look> {
    let mut families: Vec<&str> = Vec::new();
    let mut looks: Vec<(Look, &str)> = Vec::new();
    for contender in &document.contenders {
        let Described { name, store, .. } = contender;
        let family = store.as_deref().unwrap_or(name);
        // Two builds of the same store are to be told from each other.
        let variant = looks.iter().filter(|(_, of)| *of == family).count();
        let colour = match keeps_nothing(document, name) {
            true => "grey".to_owned(),
            false => {
                let at = families.iter().position(|known| *known == family).unwrap_or_else(|| {
                    families.push(family);
                    families.len() - 1
                });
                format!("c{}", at % COLOURS)
            }
        };
        looks.push((Look { name: name.clone(), colour, variant }, family));
    }
    looks.into_iter().map(|(look, _)| look).collect()
}

fn keeps_nothing(document: &Document, contender: &str) -> bool {
    let mut results = document.workloads.iter().flat_map(|workload| &workload.results);
    results.any(|result| result.contender == contender && result.promise == Promise::Nothing)
}
