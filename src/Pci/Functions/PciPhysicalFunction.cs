using Virtbus.Platform;
using static Virtbus.Pci.PciSriov;

namespace Virtbus.Pci;

/// <summary>A simulated function that cuts virtual functions from itself when its SR-IOV capability is told to.</summary>
public abstract class PciPhysicalFunction : PciFunction
{
    private readonly int _sriov;
    private volatile PciVirtualFunction[] _virtualFunctions = [];

    /// <summary>Makes the function, as after power-on, without virtual ones.</summary>
    /// <param name="layout">Its config space's layout; without the SR-IOV capability there are never virtual functions.</param>
    protected PciPhysicalFunction(ConfigLayout layout)
        : base(layout) => _sriov = layout.FindExtendedCapability(PciExtendedCapabilityId.PCI_EXT_CAP_ID_SRIOV);

    /// <inheritdoc/>
    public sealed override IReadOnlyList<IPciFunction> VirtualFunctions => _virtualFunctions;

    /// <summary>Whether VF Enable is set.</summary>
    public bool AreVirtualFunctionsEnabled => (SriovControl & PCI_SRIOV_CTRL_VFE) != 0;

    /// <summary>Whether virtual functions decode memory (VF MSE).</summary>
    public bool IsVirtualMemoryEnabled => (SriovControl & PCI_SRIOV_CTRL_MSE) != 0;

    private int SriovControl => _sriov == 0 ? 0 : Config.Read16(_sriov + PCI_SRIOV_CTRL);

    /// <summary>The address of a BAR of the first virtual function; those of the others follow, each a BAR's size further.</summary>
    /// <param name="bar">0 to 5.</param>
    public ulong GetVirtualBarAddress(int bar)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)bar, (uint)PciBar.Rom, nameof(bar));
        return _sriov == 0 ? 0 : BarAddress(Config.Layout.Find<SriovCapability>()!.Bars[bar].Kind, _sriov + PCI_SRIOV_BAR + (4 * bar));
    }

    /// <summary>Makes a virtual function. Called when VF Enable is set, under the lock of resets.</summary>
    /// <param name="index">Its number, from 0.</param>
    /// <exception cref="VirtbusException">The host has no room: then VF Enable goes back to 0.</exception>
    protected abstract PciVirtualFunction CreateVirtualFunction(int index);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        lock (Control)
            Remove();
    }

    private protected sealed override void SyncVirtualFunctions()
    {
        if (_sriov == 0)
            return;
        lock (Control)
        {
            var wanted = AreVirtualFunctionsEnabled ? Config.Read16(_sriov + PCI_SRIOV_NUM_VF) : 0;
            // NumVFs does not change while VF Enable is set, so the counts are the same when nothing changed.
            if (wanted == _virtualFunctions.Length)
                return;
            Remove();
            var made = new PciVirtualFunction[wanted];
            try
            {
                for (var i = 0; i < wanted; i++)
                    made[i] = CreateVirtualFunction(i);
                _virtualFunctions = made;
            }
            catch (Exception e)
            {
                foreach (var function in made)
                    function?.Dispose();
                Config.Set(_sriov + PCI_SRIOV_CTRL, PCI_SRIOV_CTRL_VFE, 0);
                // The bus sees that there are none. What is no refusal is a bug of the model.
                if (e is not VirtbusException)
                    FaultSource.Report(Faults, "virtual functions", e);
            }
        }
    }

    private void Remove()
    {
        var gone = _virtualFunctions;
        _virtualFunctions = [];
        foreach (var function in gone)
            function.Vanish();
    }
}
