//! The tables of a comparison, as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::trial::Row;

/// Reference policies: what our own are judged by.
pub const REFERENCES: [&str; 16] = [
    "static-1",
    "static-quarter",
    "static-half",
    "static-all",
    "react",
    "adapt",
    "hist",
    "reg",
    "conpaas",
    "token",
    "plan",
    "hpa",
    "dask",
    "hyperqueue",
    "parsl",
    "dpds",
];

/// Our own policies.
pub const OWN: [&str; 5] = ["hybrid", "predictive", "performance", "cost", "reactive"];

/// Our own policies that are judged one by one.
const JUDGED: [&str; 3] = ["hybrid", "performance", "cost"];

/// One reference policy is better than another policy if it needs less than this share of its time,
/// and of its money.
const BETTER: f64 = 0.99;

/// The rows of one instance in one setting, by policy.
type Field<'a> = BTreeMap<&'a str, &'a Row>;

/// All tables.
pub fn report(rows: &[Row]) -> String {
    let mut text = String::new();
    let all = fields(rows);
    for half in ['A', 'B'] {
        let fields: Vec<&Field<'_>> = all.iter().filter(|field| any(field).half == half).collect();
        if fields.is_empty() {
            continue;
        }
        let (limited, free): (Vec<_>, Vec<_>) = fields.into_iter().partition(|field| any(field).budget.is_some());
        let mut families: Vec<&str> = free.iter().map(|field| &*any(field).family).collect();
        families.sort_unstable();
        families.dedup();
        let _ = writeln!(text, "\n## Half {half}: {}\n", families.join(", "));
        policies(&mut text, &free);
        judged(&mut text, &free);
        by_family(&mut text, &free);
        where_better(&mut text, &free);
        forecasts(&mut text, &free);
        budgets(&mut text, &limited);
    }
    text
}

/// Rows are in the order of instances, settings and policies.
fn fields(rows: &[Row]) -> Vec<Field<'_>> {
    let same = |a: &Row, b: &Row| (&a.instance, a.setting) == (&b.instance, b.setting);
    rows.chunk_by(same).map(|rows| rows.iter().map(|row| (&*row.policy, row)).collect()).collect()
}

fn any<'a>(field: &Field<'a>) -> &'a Row {
    field.values().next().expect("a setting is run under at least one policy")
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    if count > 0 { sum / f64::from(count) } else { f64::NAN }
}

pub fn geometric(values: impl Iterator<Item = f64>) -> f64 {
    mean(values.map(f64::ln)).exp()
}

pub fn share(values: impl Iterator<Item = bool>) -> f64 {
    100.0 * mean(values.map(|value| f64::from(u8::from(value))))
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn rows_of<'a>(fields: &[&Field<'a>], policy: &str) -> Vec<&'a Row> {
    fields.iter().filter_map(|field| field.get(policy).copied()).collect()
}

/// The names that occur, our own first.
fn names(fields: &[&Field<'_>]) -> Vec<&'static str> {
    let occurs = |name: &&str| fields.iter().any(|field| field.contains_key(name));
    OWN.into_iter().chain(REFERENCES).filter(occurs).collect()
}

/// The reference policies that are better than a policy in both time and cost.
fn better(field: &Field<'_>, policy: &str) -> Vec<&'static str> {
    let Some(own) = field.get(policy) else { return Vec::new() };
    let beats =
        |other: &&Row| other.complete && other.makespan_s < BETTER * own.makespan_s && other.cost < BETTER * own.cost;
    REFERENCES.into_iter().filter(|name| field.get(name).is_some_and(beats)).collect()
}

/// By how many percent a policy is worse than another, with time and money joined.
fn excess(fields: &[&Field<'_>], policy: &str, other: &str) -> f64 {
    let pairs = fields.iter().filter_map(|field| field.get(policy).zip(field.get(other)));
    100.0 * (mean(pairs.map(|(a, b)| a.burden() - b.burden())).exp() - 1.0)
}

/// The reference policy with the least burden.
fn best_reference(fields: &[&Field<'_>], policy: &str) -> Option<(&'static str, f64)> {
    let known = REFERENCES.into_iter().map(|name| (name, excess(fields, policy, name)));
    known.filter(|(_, excess)| excess.is_finite()).max_by(|a, b| a.1.total_cmp(&b.1))
}

fn policies(text: &mut String, fields: &[&Field<'_>]) {
    let _ = writeln!(
        text,
        "### Policies, {} settings\n\n\
         | policy | makespan / critical path | cost / lower bound | burden against `hybrid` % | slowest decision ms |\n\
         |---|---:|---:|---:|---:|",
        fields.len()
    );
    for name in names(fields) {
        let rows = rows_of(fields, name);
        let _ = writeln!(
            text,
            "| {name} | {:.2} | {:.2} | {:+.1} | {:.1} |",
            geometric(rows.iter().map(|row| row.stretch())),
            geometric(rows.iter().map(|row| row.dearness())),
            excess(fields, name, "hybrid"),
            rows.iter().map(|row| row.slowest_ms).fold(0.0, f64::max),
        );
    }
}

fn judged(text: &mut String, fields: &[&Field<'_>]) {
    let _ = writeln!(
        text,
        "\n### Our own policies against reference policies\n\n\
         | policy | settings | some reference better in both % | best single reference | burden against it % |\n\
         |---|---|---:|---|---:|"
    );
    let mut line = |policy: &str, name: &str, fields: &[&Field<'_>]| {
        if let Some((best, excess)) = best_reference(fields, policy) {
            let beaten = share(fields.iter().map(|field| !better(field, policy).is_empty()));
            let _ = writeln!(text, "| {policy} | {name}: {} | {beaten:.1} | {best} | {excess:+.1} |", fields.len());
        }
    };
    for policy in JUDGED {
        line(policy, "all", fields);
    }
    for dimension in DIMENSIONS {
        let mut values: Vec<String> = fields.iter().map(|field| (dimension.of)(any(field))).collect();
        values.sort();
        values.dedup();
        for value in values {
            let of: Vec<&Field<'_>> =
                fields.iter().copied().filter(|field| (dimension.of)(any(field)) == value).collect();
            line("hybrid", &format!("{} {value}", dimension.name), &of);
        }
    }
}

/// A property of settings.
struct Dimension {
    name: &'static str,
    of: fn(&Row) -> String,
}

const DIMENSIONS: [Dimension; 7] = [
    Dimension { name: "intent", of: |row| row.intent.to_owned() },
    Dimension { name: "estimates", of: |row| row.knowledge.to_owned() },
    Dimension { name: "delay", of: |row| format!("{:3} s", row.delay_s) },
    Dimension { name: "minimum", of: |row| format!("{:4} s", row.minimum_s) },
    Dimension { name: "nodes", of: |row| format!("{:2} x {:2}", row.nodes, row.slots) },
    Dimension { name: "faults", of: |row| row.fault.to_owned() },
    Dimension {
        name: "tasks",
        of: |row| match row.tasks {
            0..150 => "   up to 150".to_owned(),
            150..800 => "  150 to 800".to_owned(),
            _ => "800 and more".to_owned(),
        },
    },
];

fn by_family(text: &mut String, fields: &[&Field<'_>]) {
    let _ = writeln!(
        text,
        "\n### Families\n\n\
         | family | settings | `hybrid`: makespan / critical path | cost / lower bound | some reference better in both % | best reference | burden against it % |\n\
         |---|---:|---:|---:|---:|---|---:|"
    );
    let mut families: BTreeMap<&str, Vec<&Field<'_>>> = BTreeMap::new();
    fields.iter().for_each(|field| families.entry(&any(field).family).or_default().push(field));
    for (family, fields) in families {
        let rows = rows_of(&fields, "hybrid");
        let (best, excess) = best_reference(&fields, "hybrid").unwrap_or(("", f64::NAN));
        let _ = writeln!(
            text,
            "| {family} | {} | {:.2} | {:.2} | {:.1} | {best} | {excess:+.1} |",
            fields.len(),
            geometric(rows.iter().map(|row| row.stretch())),
            geometric(rows.iter().map(|row| row.dearness())),
            share(fields.iter().map(|field| !better(field, "hybrid").is_empty())),
        );
    }
}

/// Which reference policies are better than `hybrid` in both, how often, and where.
fn where_better(text: &mut String, fields: &[&Field<'_>]) {
    let _ = writeln!(
        text,
        "\n### Where a reference policy is better than `hybrid` in both\n\n\
         | policy | settings % | families |\n|---|---:|---|"
    );
    for name in REFERENCES {
        let mut families: BTreeMap<&str, usize> = BTreeMap::new();
        for field in fields.iter().filter(|field| better(field, "hybrid").contains(&name)) {
            *families.entry(&any(field).family).or_default() += 1;
        }
        let count: usize = families.values().sum();
        if count > 0 {
            let mut families: Vec<(&str, usize)> = families.into_iter().collect();
            families.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            let families: Vec<String> = families.iter().map(|(family, count)| format!("{family} {count}")).collect();
            let share = 100.0 * count as f64 / fields.len() as f64;
            let _ = writeln!(text, "| {name} | {share:.1} | {} |", families.join(", "));
        }
    }
}

/// The first forecast of `hybrid`.
fn forecasts(text: &mut String, fields: &[&Field<'_>]) {
    let _ = writeln!(
        text,
        "\n### First forecast of `hybrid`\n\n\
         | estimates | settings | error of the median time % | actual / forecast time | time within 80 % interval % | error of the median cost % | cost within 80 % interval % |\n\
         |---|---:|---:|---:|---:|---:|---:|"
    );
    let rows = rows_of(fields, "hybrid");
    for knowledge in ["exact", "class", "biased", "missing"] {
        let of = || rows.iter().filter(|row| row.knowledge == knowledge);
        let time: Vec<(f64, [f64; 3])> = of().filter_map(|row| Some((row.makespan_s, row.forecast_s?))).collect();
        let cost: Vec<(f64, [f64; 3])> = of().filter_map(|row| Some((row.cost, row.forecast_cost?))).collect();
        if time.is_empty() {
            continue;
        }
        let error = |pairs: &[(f64, [f64; 3])]| {
            100.0 * median(pairs.iter().map(|(actual, forecast)| (forecast[1] / actual - 1.0).abs()).collect())
        };
        let covered = |pairs: &[(f64, [f64; 3])]| {
            // A run that ends as foreseen to the nanosecond is within its interval.
            let within =
                |(actual, [q10, _, q90]): &(f64, [f64; 3])| (q10 * (1.0 - 1e-6)..=q90 * (1.0 + 1e-6)).contains(actual);
            share(pairs.iter().map(within))
        };
        let _ = writeln!(
            text,
            "| {knowledge} | {} | {:.1} | {:.2} | {:.0} | {:.1} | {:.0} |",
            time.len(),
            error(&time),
            geometric(time.iter().map(|(actual, forecast)| actual / forecast[1].max(1e-9))),
            covered(&time),
            error(&cost),
            covered(&cost),
        );
    }
}

/// Settings with a budget. Runs that it ended are not compared.
fn budgets(text: &mut String, fields: &[&Field<'_>]) {
    if fields.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "\n### With a budget of 1.2 to 3.2 times the lower bound, {} settings\n\n\
         | policy | overruns | largest overrun % | complete % | cost / budget of complete runs | makespan / critical path of complete runs |\n\
         |---|---:|---:|---:|---:|---:|",
        fields.len()
    );
    for name in names(fields) {
        let rows = rows_of(fields, name);
        let over = |row: &&Row| row.cost / row.budget.unwrap_or(f64::INFINITY);
        let complete = || rows.iter().copied().filter(|row| row.complete);
        let _ = writeln!(
            text,
            "| {name} | {} | {:.1} | {:.0} | {:.2} | {:.2} |",
            rows.iter().filter(|row| over(row) > 1.0 + 1e-9).count(),
            100.0 * (rows.iter().map(over).fold(1.0, f64::max) - 1.0),
            share(rows.iter().map(|row| row.complete)),
            geometric(complete().map(|row| over(&row))),
            geometric(complete().map(|row| row.stretch())),
        );
    }
}
