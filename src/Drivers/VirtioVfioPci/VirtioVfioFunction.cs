using Virtbus.Buses.Pci;
using Virtbus.Drivers.VfioPci;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Drivers.VirtioVfioPci;

/// <summary>A function as the tool box hands it out; where its physical function can read and set its state, with migration and a log of what it writes.</summary>
internal class VirtioVfioFunction : VfioPciFunction
{
    private readonly VirtioMigration? _arcs;
    private readonly VfioDmaLogging? _logging;

    public VirtioVfioFunction(PciDevice device, bool migrates)
        : base(device)
    {
        if (!migrates)
            return;
        _arcs = new VirtioMigration(device);
        _logging = new VfioDmaLogging(device.Dma);
    }

    /// <summary>What a user gets, by the names that Linux gives the sets of callbacks.</summary>
    public virtual string Ops => Migrates ? "virtio-vfio-pci-lm" : "virtio-vfio-pci";

    /// <inheritdoc/>
    public override IVfioMigrationOps? Migration => _arcs?.Ops;

    /// <inheritdoc/>
    public override IVfioDmaLoggingOps? DmaLogging => _logging;

    protected bool Migrates => _arcs is not null;

    /// <inheritdoc/>
    public override void Close()
    {
        _logging?.Stop();
        base.Close();
    }

    /// <summary>A reset function runs. What it wrote stays in the log: its user still moves.</summary>
    protected override void OnReset() => _arcs?.Reset();
}
