//! `diptych-coordinator restore`: a backup in the place of a data directory's database, offline.

use std::path::PathBuf;

use clap::Args;

use crate::store;

/// Put a backup in the place of the database, while no coordinator runs on the data directory.
///
/// The backup is checked whole, and brought to this version, before anything changes. Attempt numbers go on far behind
/// those in it, as some were given out after it was made. Logs stay as they are. `diptych admin backup` makes one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych-coordinator restore --from diptych-20260102T030405Z --data-dir /var/lib/diptych
  diptych-coordinator restore --from BACKUP --data-dir DIR --force     keeps the database that is there beside the new one")]
pub struct RestoreArgs {
    /// The backup.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The data directory; made if it is not there.
    #[arg(long, env = "DIPTYCH_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Put a database that is there aside: it is renamed, not deleted.
    #[arg(long)]
    force: bool,
}

/// Restores, and says what was restored.
///
/// # Errors
/// See [`store::restore`]; nothing has changed then.
pub async fn run(args: RestoreArgs) -> anyhow::Result<()> {
    let restored = store::restore(&args.from, &args.data_dir, args.force).await?;
    if let Some(former) = &restored.former {
        println!("the database that was there is now {}", former.display());
    }
    println!(
        "restored {} jobs, of which {} go on when the coordinator starts, to {}",
        restored.jobs,
        restored.active,
        args.data_dir.display()
    );
    Ok(())
}
