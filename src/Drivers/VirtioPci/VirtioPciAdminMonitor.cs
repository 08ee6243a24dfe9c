using Virtbus.Platform;

namespace Virtbus.Drivers.VirtioPci;

/// <summary>The lock of what threads of administration commands wait for, and how they wait. A simulation has its seed say who goes on.</summary>
internal class VirtioPciAdminMonitor
{
    /// <summary>Waits until something is told, and lets others in meanwhile. By who holds the lock.</summary>
    internal virtual void Wait() => Monitor.Wait(this);

    /// <summary>Has all who wait look again. By who holds the lock.</summary>
    internal virtual void Tell() => Monitor.PulseAll(this);

    /// <summary>Closes a gate, and waits until everybody is out. By who does not hold the lock.</summary>
    internal virtual void Close(UseGate gate) => gate.Close();
}
