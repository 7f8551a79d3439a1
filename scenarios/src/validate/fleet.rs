//! The instances that served a log, as the simulator knows them.

use lodestar_router::Duration;
use lodestar_sim::catalog::{CatalogError, GpuProfile, MeasuredEngine, ModelOnGpu};
use lodestar_sim::{ApiServer, ClusterConfig, InstanceConfig};

use super::error::LogError;
use super::log::{ClockAt, MeasuredLog};
use crate::fleet::{Fleet, FleetError};

/// One instance for each name of a log.
#[derive(Clone, Debug)]
pub struct LogFleet {
    /// In the order of [`MeasuredLog::instances`].
    pub(super) instances: Vec<InstanceConfig>,
}

/// Why a log's instances cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum LogFleetError {
    /// The log names an instance that the fleet does not have.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The GPU or the model is not known.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The fleet cannot be built.
    #[error(transparent)]
    Fleet(#[from] FleetError),
}

impl LogFleet {
    /// Every instance of the log on the same GPU, with the engine settings of the profile's measurement and
    /// over these the settings given.
    ///
    /// # Errors
    /// When the profile does not know the model or it does not fit.
    pub fn of_profile(
        log: &MeasuredLog,
        profile: &GpuProfile,
        model: &str,
        settings: MeasuredEngine,
    ) -> Result<Self, CatalogError> {
        let on_gpu = profile.on(model)?;
        let name = |name: &String| Self::instance(profile, on_gpu, settings, name.clone());
        Ok(Self { instances: log.instances.iter().map(name).collect::<Result<_, _>>()? })
    }

    fn instance(
        profile: &GpuProfile,
        on_gpu: &ModelOnGpu,
        settings: MeasuredEngine,
        name: String,
    ) -> Result<InstanceConfig, CatalogError> {
        let engine = profile.default_engine(&on_gpu.model)?;
        let measured = on_gpu.measured_engine.unwrap_or_default();
        Ok(on_gpu.instance(profile, settings.apply(measured.apply(engine)), name))
    }

    /// Instances of an unequal fleet, which the log names by number or as the fleet does.
    ///
    /// # Errors
    /// When the log names an instance that the fleet does not have, or the fleet cannot be built.
    pub fn of_fleet(
        log: &MeasuredLog,
        fleet: &Fleet,
        model: &str,
        settings: MeasuredEngine,
    ) -> Result<Self, LogFleetError> {
        let mut known = Vec::new();
        for instance in fleet.instances(model)? {
            let profile = lodestar_sim::catalog::profile(&instance.gpu)?;
            known.push(Self::instance(&profile, profile.on(model)?, settings, instance.name)?);
        }
        let find = |(at, name): (usize, &String)| {
            let number = name.parse::<usize>().ok();
            number
                .and_then(|number| known.get(number))
                .or_else(|| known.iter().find(|instance| instance.name == *name))
                .cloned()
                .ok_or_else(|| {
                    let first = log.requests.iter().find(|request| request.instance == at);
                    LogError::UnknownInstance {
                        row: first.map_or(0, |request| request.row),
                        column: log.instance_column.clone(),
                        value: name.clone(),
                        fleet: fleet.to_string(),
                    }
                })
        };
        let instances = log.instances.iter().enumerate().map(find).collect::<Result<_, _>>()?;
        Ok(Self { instances })
    }

    /// The instances and what the log's clock saw around them.
    pub(super) fn cluster(&self, clock_at: ClockAt) -> ClusterConfig {
        let cluster = ClusterConfig::new(self.instances.clone());
        let nothing = Duration::ZERO;
        match clock_at {
            ClockAt::Gateway => ClusterConfig { client_network: nothing, ..cluster },
            ClockAt::Engine => ClusterConfig {
                client_network: nothing,
                instance_network: nothing,
                api_server: ApiServer { per_request: nothing, per_prompt_token: nothing },
                ..cluster
            },
        }
    }
}
