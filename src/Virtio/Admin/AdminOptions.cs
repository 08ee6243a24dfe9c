namespace Virtbus.Virtio.Admin;

/// <summary>How an administration queue judges commands.</summary>
public sealed record AdminOptions
{
    /// <summary>
    /// Whether it goes by the standard to the letter. Else LIST_QUERY and LIST_USE of the SR-IOV group are answered while VF Enable is clear too, since Linux asks them
    /// once, before it enables any function, and the commands for capabilities are answered for either group once they are in the list of one: Linux lists what
    /// it uses for the SR-IOV group alone.
    /// </summary>
    public bool IsStrict { get; init; }

    /// <summary>Told of each command and what became of it, when that is written and before the driver sees it; on the queue's thread, not to block. Null for nobody.</summary>
    public Action<AdminCommand, AdminAnswer>? Told { get; init; }
}
