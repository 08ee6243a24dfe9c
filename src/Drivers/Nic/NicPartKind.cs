namespace Virtbus.Drivers.Nic;

/// <summary>What a part of an adapter is for; the middle of its name.</summary>
public enum NicPartKind
{
    /// <summary>A network interface: <c>net</c>.</summary>
    Net,
    /// <summary>vDPA devices: <c>vdpa</c>.</summary>
    Vdpa,
    /// <summary>Migration of the virtual functions: <c>vfmig</c>. Only physical functions that can have some have the part.</summary>
    VfMigration,
}
