using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Buses.Auxiliary;

/// <summary>
/// A part of a device, published for a driver of another subsystem. The creator derives from this class and puts into its own class what it
/// shares with the consumer; the consumer's probe gets that class (VB-04, VB-06).
/// </summary>
/// <remarks>
/// Three steps: the creator makes its object (its fields), this constructor initializes it (nothing to undo when it throws), and
/// <see cref="AuxiliaryBus.AddAsync"/> adds it; after a failed add the creator drops its reference. The payload stays valid until the
/// device is deleted (VB-07): the creator deletes the device before its own data goes. What a type gives out by <see cref="Device.Shared"/>
/// is refused after that.
/// </remarks>
public class AuxiliaryDevice : Device, IAuxiliaryIdentity
{
    // What a name has at most: its two halves and their dot, a dot and the number.
    private const int NameLength = AuxiliaryName.MaxLength + 11;

    private SortedSet<int>? _irqs;
    private readonly AuxiliaryName _name;

    /// <summary>Initializes a device named <c>module.name.id</c>.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="module">The creator's module name; letters, digits, '_' and '-'.</param>
    /// <param name="name">The kind of part; letters, digits, '_' and '-'. With the module at most 39 characters.</param>
    /// <param name="id">The creator's number for it; the creator keeps it unique.</param>
    /// <param name="parent">The device that this part was cut from; mandatory.</param>
    /// <exception cref="VirtbusException">EINVAL: module or name is empty or not allowed.</exception>
    public AuxiliaryDevice(AuxiliaryBus bus, string module, string name, uint id, Device parent)
        : this(bus, AuxiliaryName.Get((bus ?? throw new ArgumentNullException(nameof(bus))).Names, module, name), id, parent)
    {
    }

    private AuxiliaryDevice(AuxiliaryBus bus, AuxiliaryName name, uint id, Device parent)
        : base(
            string.Create(null, stackalloc char[NameLength], $"{name.MatchName}.{id}"),
            parent ?? throw new ArgumentNullException(nameof(parent)),
            bus)
    {
        _name = name;
        Id = id;
    }

    /// <summary>The creator's number for the device.</summary>
    public uint Id { get; }

    /// <inheritdoc/>
    public string MatchName => _name.MatchName;

    /// <summary>The interrupts of the device, as <c>irqs/</c> shows them.</summary>
    public IReadOnlyList<int> Irqs
    {
        get
        {
            if (_irqs is not { } irqs)
                return [];
            lock (irqs)
                return [.. irqs];
        }
    }

    /// <summary>Shows an interrupt under <c>irqs/</c>.</summary>
    /// <param name="irq">The interrupt's number, not negative.</param>
    /// <exception cref="VirtbusException">EEXIST: it is shown already.</exception>
    public void AddIrq(int irq)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(irq);
        var irqs = LazyInitializer.EnsureInitialized(ref _irqs, () => []);
        lock (irqs)
        {
            if (!irqs.Add(irq))
                throw new VirtbusException(Errno.EEXIST, $"Interrupt {irq} is already under irqs/ of {Name}. Each number is added once.");
        }
    }

    /// <summary>Takes an interrupt out of <c>irqs/</c>.</summary>
    /// <param name="irq">A number that is shown.</param>
    /// <exception cref="VirtbusException">EINVAL: it is not shown.</exception>
    public void RemoveIrq(int irq)
    {
        var irqs = _irqs;
        lock (irqs ?? [])
        {
            if (irqs?.Remove(irq) != true)
                throw new VirtbusException(Errno.EINVAL, $"Interrupt {irq} is not under irqs/ of {Name}. Remove only what was added.");
        }
    }

    /// <inheritdoc/>
    protected override IReadOnlyList<AttributeGroup> AttributeGroups => _irqs is null ? [] : IrqGroups;

    internal string ModaliasText => _name.Modalias;

    private static readonly AttributeGroup[] IrqGroups =
    [
        AttributeGroup.Dynamic<AuxiliaryDevice>("irqs", d => d.Irqs.Select(irq => new ObjectAttribute<AuxiliaryDevice>(irq.ToString(), _ => ""))),
    ];
}
