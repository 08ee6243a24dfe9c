namespace Virtbus.Pci;

/// <summary>
/// A simulated virtual function. It exists while its physical function's VF Enable is set, belongs to it, and is disposed by it; after that it
/// reads as all ones.
/// </summary>
public abstract class PciVirtualFunction : PciFunction
{
    /// <summary>Makes the function.</summary>
    /// <param name="physical">The function that it is cut from.</param>
    /// <param name="index">Its number, from 0.</param>
    /// <param name="layout">Its config space's layout, from <see cref="ConfigSpaceBuilder.VirtualFunction"/>, shared with its like.</param>
    protected PciVirtualFunction(PciPhysicalFunction physical, int index, ConfigLayout layout)
        : base(layout)
    {
        if (!layout.IsVirtualFunction)
            throw new ArgumentException("The layout is not one of a virtual function. Make it with ConfigSpaceBuilder.VirtualFunction.", nameof(layout));
        PhysicalFunction = physical;
        Index = index;
    }

    /// <summary>The function that it is cut from.</summary>
    public PciPhysicalFunction PhysicalFunction { get; }

    /// <summary>Its number, from 0.</summary>
    public int Index { get; }

    /// <inheritdoc/>
    public override ulong GetBarAddress(int bar) =>
        bar < PciBar.Rom && GetBar(bar).Kind != PciBarKind.None ? PhysicalFunction.GetVirtualBarAddress(bar) + ((ulong)Index * GetBar(bar).Size) : 0;

    /// <inheritdoc/>
    public override bool IsDecoding(int bar) =>
        GetBar(bar).Kind != PciBarKind.None && IsPresent && IsAwake && PhysicalFunction.IsAwakeNow && PhysicalFunction.IsVirtualMemoryEnabled;

    internal void Vanish()
    {
        Lose();
        Dispose();
    }
}
