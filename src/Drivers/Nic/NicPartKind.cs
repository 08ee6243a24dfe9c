namespace Virtbus.Drivers.Nic;

/// <summary>What parts of adapters are for; the middle of their names. A make may have parts of other kinds, for drivers that know them.</summary>
public static class NicPartKind
{
    /// <summary>A network interface; its core has <see cref="INicLink"/> and <see cref="INicQueueSets"/>.</summary>
    public const string Net = "net";

    /// <summary>vDPA devices; its core has <see cref="INicVirtio"/>.</summary>
    public const string Vdpa = "vdpa";

    /// <summary>Migration of the functions that a physical one has beside itself; its core has <see cref="INicMigration"/>.</summary>
    public const string Migration = "vfmig";
}
