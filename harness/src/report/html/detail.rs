//! All about a test: why it is what it is, what the kernel said, what it did, and
//! what to type next.

use anyhow::Result;

use super::summary::{complaint, line};
use super::traces::Traced;
use super::{LINE, Report, TEXT, console};
use crate::html::{clip, escape_lines, json};
use crate::report::{again, show_trace};
use crate::results::TestResult;
use crate::trace::Timeline;

/// How many broken rules are told.
const RULES: usize = 50;

/// The text; the trace is drawn only if there is `room` for it.
///
/// # Errors
/// When the drawing cannot be written.
pub(super) fn text(report: &Report<'_>, n: usize, test: &TestResult, room: bool) -> Result<String> {
    let mut text = format!("<div class=\"detail\">\n<h3 class=\"vh\">{}</h3>\n", line(&test.id));
    if !test.reason.is_empty() {
        text.push_str(&format!(
            "<pre class=\"reason\">{}</pre>\n",
            escape_lines(&clip(&test.reason, TEXT))
        ));
    }
    text.push_str(&rules(test));
    text.push_str(&format!("<p class=\"dim\">{}</p>\n", facts(test)));
    if !test.kernel_events.is_empty() {
        let events = test.kernel_events.iter().take(console::COMPLAINTS);
        let complaints: String = events.map(|event| complaint(report, event)).collect();
        let more = match test.kernel_events.len().saturating_sub(console::COMPLAINTS) {
            0 => String::new(),
            n => format!("<p>{n} more complaints are in results.json.</p>\n"),
        };
        text.push_str(&format!("<h4>What the kernel said</h4>\n{complaints}{more}"));
    }
    if room {
        text.push_str(&trace(report, n, test)?);
    } else if test.trace.captured > 0 {
        text.push_str("<p>The trace is not drawn: the page is large enough.</p>\n");
    }
    let mut commands = vec![again(report.program, report.dir, &test.id)];
    if test.trace.captured > 0 {
        commands.push(show_trace(report.program, report.dir, &test.id));
    }
    let commands = commands.iter().map(|command| line(command)).collect::<Vec<_>>().join("\n");
    text.push_str(&format!(
        "<h4>Once more, and its trace in words</h4>\n<pre class=\"cmd\" tabindex=\"0\">{commands}</pre>\n</div>"
    ));
    Ok(text)
}

fn rules(test: &TestResult) -> String {
    let violations = &test.trace.violations;
    if violations.is_empty() {
        return String::new();
    }
    let items: String = violations
        .iter()
        .take(RULES)
        .map(|broken| {
            format!(
                "<li>rule <b>{}</b>, step {}: {}</li>\n",
                line(&broken.rule),
                line(&broken.step),
                line(&broken.text)
            )
        })
        .collect();
    let more = match violations.len().saturating_sub(RULES) {
        0 => String::new(),
        n => format!("<li>and {n} more</li>\n"),
    };
    format!("<h4>Broken rules</h4>\n<ul class=\"rules\">\n{items}{more}</ul>\n")
}

fn facts(test: &TestResult) -> String {
    let trace = &test.trace;
    let s = if test.attempts == 1 { "" } else { "s" };
    let alike = if test.flaky { ", not all alike" } else { "" };
    let mut facts =
        vec![format!("{} turn{s}{alike}", test.attempts), format!("seed {}", test.seed)];
    if trace.captured > 0 {
        facts.push(format!("{} events captured, {} lost", trace.captured, trace.lost));
    }
    if let Some(why) = &trace.incomplete {
        facts.push(format!("the trace is not whole: {}", line(why)));
    }
    if let Some(digest) = &trace.canonical_sha256 {
        facts.push(format!("canonical form <code>{}</code>", line(digest)));
    }
    facts.join("; ")
}

fn trace(report: &Report<'_>, n: usize, test: &TestResult) -> Result<String> {
    let (turn, timeline) = match report.traces.get(n) {
        None | Some(Traced::Nothing) => return Ok(String::new()),
        Some(Traced::Unread(why)) => {
            return Ok(format!("<p>The trace cannot be shown: {}</p>\n", line(&clip(why, LINE))));
        }
        Some(Traced::Is { turn, timeline }) => (*turn, timeline),
    };
    let of = match (turn, test.attempts) {
        (_, 0 | 1) => String::new(),
        (turn, all) => format!(" of turn {} of {all}", turn + 1),
    };
    Ok(format!(
        "<h4>Notifier events{of}</h4>\n<div class=\"timeline\"></div>\n{}\
         <details class=\"told\"><summary>The same in words</summary>\n<pre tabindex=\"0\">{}</pre>{}</details>\n\
         <script type=\"application/json\">{}</script>\n",
        left_out(timeline),
        escape_lines(&timeline.text),
        match timeline.more_lines {
            0 => String::new(),
            n => format!("<p>{n} more lines; the command below tells them.</p>"),
        },
        json(timeline)?
    ))
}

fn left_out(timeline: &Timeline) -> String {
    let told = &timeline.told;
    let mut words = vec![format!("{} steps, {} events", told.steps, told.events)];
    if told.left_out > 0 {
        words.push(format!(
            "of which {} are about memory that is no buffer, and left out",
            told.left_out
        ));
    }
    if timeline.more_steps > 0 {
        words.push(format!("<b>{} more steps are not drawn</b>", timeline.more_steps));
    }
    if timeline.more_items() > 0 {
        words.push(format!("<b>{} more events are not drawn</b>", timeline.more_items()));
    }
    format!("<p class=\"dim\">{}.</p>\n", words.join(", "))
}
