//! Usage in the columns of FOCUS 1.2, the open specification of cost and usage, as CSV.
//!
//! A line tells what a sandbox used of one thing in one hour: memory, vCPUs, or disk above the free allowance. What
//! was not billed is not told. Columns that only a price can fill are empty, so this is no billing yet: a file conforms
//! once somebody has rated it. Custom columns begin with `x_`, behind the others; `x_ConsumedInteger` is exact.

use std::io::{self, Write};
use std::ops::Range;

use dormouse_ledger::{LedgerError, rfc3339};
use dormouse_metering::{Basis, GbSeconds, Quantities, VcpuSeconds, hour};

use super::csv::Lines;
use super::{Clipped, Export, ExportError, Sheet, TagsOf};

/// Of every line: what stands in it, or where it comes from.
enum Value {
    Null,
    Always(&'static str),
    Provider,
    Org,
    Sandbox,
    Tags,
    HourStart,
    HourEnd,
    MonthStart,
    MonthEnd,
    Description,
    Sku,
    Quantity,
    Unit,
    Integer,
    Basis,
    Final,
}

/// In the order of the alphabet, as the specification has them; our own behind them.
const COLUMNS: [(&str, Value); 45] = [
    ("BilledCost", Value::Null),
    ("BillingAccountId", Value::Org),
    ("BillingAccountName", Value::Org),
    ("BillingCurrency", Value::Null),
    ("BillingPeriodEnd", Value::MonthEnd),
    ("BillingPeriodStart", Value::MonthStart),
    ("ChargeCategory", Value::Always("Usage")),
    ("ChargeClass", Value::Null),
    ("ChargeDescription", Value::Description),
    ("ChargeFrequency", Value::Always("Usage-Based")),
    ("ChargePeriodEnd", Value::HourEnd),
    ("ChargePeriodStart", Value::HourStart),
    ("ConsumedQuantity", Value::Quantity),
    ("ConsumedUnit", Value::Unit),
    ("ContractedCost", Value::Null),
    ("ContractedUnitPrice", Value::Null),
    ("EffectiveCost", Value::Null),
    ("InvoiceId", Value::Null),
    ("InvoiceIssuerName", Value::Provider),
    ("ListCost", Value::Null),
    ("ListUnitPrice", Value::Null),
    ("PricingCategory", Value::Null),
    ("PricingCurrency", Value::Null),
    ("PricingQuantity", Value::Null),
    ("PricingUnit", Value::Null),
    ("ProviderName", Value::Provider),
    ("PublisherName", Value::Provider),
    ("RegionId", Value::Null),
    ("RegionName", Value::Null),
    ("ResourceId", Value::Sandbox),
    ("ResourceName", Value::Sandbox),
    ("ResourceType", Value::Always("Sandbox")),
    ("ServiceCategory", Value::Always("Compute")),
    ("ServiceName", Value::Always("Sandboxes")),
    ("ServiceSubcategory", Value::Always("Virtual Machines")),
    ("SkuId", Value::Sku),
    ("SkuMeter", Value::Sku),
    ("SkuPriceId", Value::Null),
    ("SubAccountId", Value::Org),
    ("SubAccountName", Value::Org),
    ("SubAccountType", Value::Always("Org")),
    ("Tags", Value::Tags),
    ("x_Basis", Value::Basis),
    ("x_ConsumedInteger", Value::Integer),
    ("x_Final", Value::Final),
];

/// What is used.
#[derive(Clone, Copy)]
enum Thing {
    Memory,
    Vcpu,
    DiskOverage,
}

/// One sandbox in one hour, while its slices are added.
struct Hour {
    org: String,
    sandbox: String,
    /// Where it begins, in nanoseconds since the Unix epoch.
    start_unix_ns: i64,
    sum: Quantities,
    is_final: bool,
}

pub(super) struct Focus<'a, W: Write> {
    lines: Lines<W>,
    provider: String,
    basis: Basis,
    tags_of: TagsOf<'a>,
    /// The sandbox whose tags are known, and those as JSON.
    tags: ((String, String), String),
    hour: Option<Hour>,
}

impl<'a, W: Write> Focus<'a, W> {
    pub(super) fn begin(out: W, export: &Export, tags_of: TagsOf<'a>) -> io::Result<Self> {
        let mut lines = Lines::new(out);
        for (name, _) in &COLUMNS {
            lines.text(name);
        }
        lines.end_line()?;
        Ok(Self {
            lines,
            provider: export.provider.clone(),
            basis: export.rules.basis,
            tags_of,
            tags: Default::default(),
            hour: None,
        })
    }

    /// Writes the hour that is complete, a line for each thing used.
    fn end_hour(&mut self) -> Result<(), ExportError> {
        let Some(hour) = self.hour.take() else { return Ok(()) };
        let who = (hour.org.clone(), hour.sandbox.clone());
        if self.tags.0 != who {
            let tags = (self.tags_of)(&hour.org, &hour.sandbox)?.tags;
            let json = serde_json::to_string(&tags).map_err(io::Error::other)?;
            self.tags = (who, json);
        }
        for thing in [Thing::Memory, Thing::Vcpu, Thing::DiskOverage] {
            if thing.integer(&hour.sum) > 0 {
                for (_, value) in &COLUMNS {
                    let text = self.value(value, &hour, thing);
                    self.lines.text(&text);
                }
                self.lines.end_line()?;
            }
        }
        Ok(())
    }

    fn value(&self, value: &Value, hour: &Hour, thing: Thing) -> String {
        let month = month_of(hour.start_unix_ns);
        match value {
            Value::Null => String::new(),
            Value::Always(text) => (*text).to_owned(),
            Value::Provider => self.provider.clone(),
            Value::Org => hour.org.clone(),
            Value::Sandbox => hour.sandbox.clone(),
            Value::Tags => self.tags.1.clone(),
            Value::HourStart => seconds(hour.start_unix_ns),
            Value::HourEnd => seconds(hour.start_unix_ns.saturating_add(hour::HOUR_NS)),
            Value::MonthStart => month.start,
            Value::MonthEnd => month.end,
            Value::Description => format!("{} of sandbox {}", thing.name(), hour.sandbox),
            Value::Sku => thing.sku().to_owned(),
            Value::Quantity => thing.quantity(&hour.sum),
            Value::Unit => thing.unit().to_owned(),
            Value::Integer => thing.integer(&hour.sum).to_string(),
            Value::Basis => self.basis.name().to_owned(),
            Value::Final => hour.is_final.to_string(),
        }
    }
}

impl<W: Write> Sheet for Focus<'_, W> {
    fn slice(&mut self, slice: &Clipped<'_>) -> Result<(), ExportError> {
        // Slices are cut at hours, so each lies in one.
        let row = slice.row;
        let start_unix_ns = slice.place.start - slice.place.start.rem_euclid(hour::HOUR_NS);
        let goes_on = self.hour.as_ref().is_some_and(|hour| {
            hour.start_unix_ns == start_unix_ns && hour.org == row.org && hour.sandbox == row.sandbox
        });
        if !goes_on {
            self.end_hour()?;
        }
        let hour = self.hour.get_or_insert_with(|| Hour {
            org: row.org.clone(),
            sandbox: row.sandbox.clone(),
            start_unix_ns,
            sum: Quantities::default(),
            is_final: true,
        });
        let overflow = || LedgerError::Overflow { what: format!("an hour of {}", row.sandbox) };
        hour.sum = hour.sum.checked_add(slice.quantities).ok_or_else(overflow)?;
        hour.is_final &= row.is_final;
        Ok(())
    }

    fn end(mut self: Box<Self>) -> Result<(), ExportError> {
        self.end_hour()?;
        Ok(self.lines.end()?)
    }
}

impl Thing {
    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "Memory",
            Self::Vcpu => "vCPUs",
            Self::DiskOverage => "Disk above the free allowance",
        }
    }

    const fn sku(self) -> &'static str {
        match self {
            Self::Memory => "sandbox-memory",
            Self::Vcpu => "sandbox-vcpu",
            Self::DiskOverage => "sandbox-disk-overage",
        }
    }

    /// A GB-second is of 2^30 bytes here: FOCUS calls those GiB.
    const fn unit(self) -> &'static str {
        match self {
            Self::Memory | Self::DiskOverage => "GiB-Seconds",
            Self::Vcpu => "VCPU-Seconds",
        }
    }

    const fn integer(self, sum: &Quantities) -> i128 {
        match self {
            Self::Memory => sum.memory_byte_ns,
            Self::Vcpu => sum.vcpu_milli_ns,
            Self::DiskOverage => sum.disk_overage_byte_ns,
        }
    }

    /// Every decimal of it: each has an end.
    fn quantity(self, sum: &Quantities) -> String {
        match self {
            Self::Memory | Self::DiskOverage => GbSeconds(self.integer(sum)).to_string(),
            Self::Vcpu => VcpuSeconds(self.integer(sum)).to_string(),
        }
    }
}

/// As FOCUS writes times: to the second.
fn seconds(unix_ns: i64) -> String {
    let text = rfc3339(unix_ns);
    format!("{}Z", text.get(..19).unwrap_or_default())
}

/// The first instant of a month (UTC), and that of the next.
fn month_of(unix_ns: i64) -> Range<String> {
    let text = rfc3339(unix_ns);
    let (year, month) = text.get(..7).and_then(|text| text.rsplit_once('-')).unwrap_or_default();
    let (year, month): (i64, i64) = (year.parse().unwrap_or_default(), month.parse().unwrap_or_default());
    let first = |year: i64, month: i64| format!("{year:04}-{month:02}-01T00:00:00Z");
    first(year, month)..first(year + month / 12, month % 12 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_billing_period_is_the_month_that_an_hour_lies_in() {
        let month = |unix_s: i64| month_of(unix_s * 1_000_000_000);
        let of = |start: &str, end: &str| start.to_owned()..end.to_owned();
        assert_eq!(month(1_767_225_599), of("2025-12-01T00:00:00Z", "2026-01-01T00:00:00Z"));
        assert_eq!(month(1_767_225_600), of("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"));
        assert_eq!(seconds(1_767_225_599_999_999_999), "2025-12-31T23:59:59Z");
    }

    #[test]
    fn columns_are_in_the_order_of_the_alphabet_and_ours_come_last() {
        let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
        assert!(names.is_sorted(), "x_ sorts behind capitals: {names:?}");
    }
}
