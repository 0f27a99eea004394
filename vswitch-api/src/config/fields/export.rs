//! The keys of `[sflow]` and `[ipfix]`.

use super::{Fields, Pairs};
use crate::config::desired::{IpfixSpec, SampledSpec, SflowSpec};
use crate::config::value::Value;

pub(crate) fn sflow(mut fields: Fields) -> SflowSpec {
    let default = SflowSpec::default();
    SflowSpec {
        collector: fields.address("collector"),
        one_in: fields.int("one-in").unwrap_or(default.one_in),
        header: fields.int("header").unwrap_or(default.header),
        polling: fields.duration("polling").unwrap_or(default.polling),
        agent: fields.ip("agent"),
        of: sampled(&mut fields),
    }
}

pub(crate) fn of_sflow(spec: &SflowSpec) -> Pairs {
    let mut out = Pairs::new();
    out.extend(spec.collector.map(|collector| ("collector", Value::Address(collector))));
    out.push(("one-in", Value::Int(spec.one_in)));
    out.push(("header", Value::Int(spec.header)));
    out.push(("polling", Value::Duration(spec.polling)));
    out.extend(spec.agent.map(|agent| ("agent", Value::Ip(agent))));
    of_sampled(&spec.of, &mut out);
    out
}

pub(crate) fn ipfix(mut fields: Fields) -> IpfixSpec {
    let default = IpfixSpec::default();
    IpfixSpec {
        collector: fields.address("collector"),
        one_in: fields.int("one-in").unwrap_or(default.one_in),
        domain: fields.int("domain").unwrap_or(default.domain),
        template_refresh: fields.duration("template-refresh").unwrap_or(default.template_refresh),
        active: fields.duration("active").unwrap_or(default.active),
        idle: fields.duration("idle").unwrap_or(default.idle),
        max_flows: fields.int("max-flows").unwrap_or(default.max_flows),
        of: sampled(&mut fields),
    }
}

pub(crate) fn of_ipfix(spec: &IpfixSpec) -> Pairs {
    let mut out = Pairs::new();
    out.extend(spec.collector.map(|collector| ("collector", Value::Address(collector))));
    out.push(("one-in", Value::Int(spec.one_in)));
    out.push(("domain", Value::Int(spec.domain)));
    out.push(("template-refresh", Value::Duration(spec.template_refresh)));
    out.push(("active", Value::Duration(spec.active)));
    out.push(("idle", Value::Duration(spec.idle)));
    out.push(("max-flows", Value::Int(spec.max_flows)));
    of_sampled(&spec.of, &mut out);
    out
}

fn sampled(fields: &mut Fields) -> SampledSpec {
    SampledSpec {
        ports: fields.texts("ports").unwrap_or_default(),
        bridges: fields.texts("bridges").unwrap_or_default(),
    }
}

fn of_sampled(spec: &SampledSpec, out: &mut Pairs) {
    for (key, names) in [("ports", &spec.ports), ("bridges", &spec.bridges)] {
        if !names.is_empty() {
            out.push((key, Value::Texts(names.clone())));
        }
    }
}
