using Virtbus.Drivers.VirtioPci;
using Virtbus.Platform;

namespace Virtbus.Tests.Drivers.Simulation;

/// <summary>Has threads of a simulation wait for each other by its seed.</summary>
/// <param name="threads">The threads.</param>
internal sealed class SimMonitor(SeededThreads threads) : VirtioPciAdminMonitor
{
    /// <summary>Whether what is told reaches nobody.</summary>
    internal bool IsDeaf { get; set; }

    internal override void Wait() => threads.Wait(this);

    internal override void Tell()
    {
        if (!IsDeaf)
            threads.Tell(this);
    }

    internal override void Close(UseGate gate)
    {
        gate.Shut();
        threads.Await(() => gate.Users == 0);
    }
}
