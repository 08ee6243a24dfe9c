namespace Virtbus.Provisioning;

/// <summary>How far a function is in its life.</summary>
public enum FunctionState
{
    /// <summary>It has a name and a kind; something that has to be set is not.</summary>
    Defined,

    /// <summary>All that has to be set is. Nothing of it is visible yet.</summary>
    Configured,

    /// <summary>It is on its bus.</summary>
    Active,

    /// <summary>Somebody outside the fabric has it open.</summary>
    InUse,

    /// <summary>It is being deactivated, and waits for who has it.</summary>
    Draining,

    /// <summary>It was active, and what it was made on went. The definition stays, and it comes back with that or when it is activated.</summary>
    Gone,

    /// <summary>It was active and is being made again, which may wait for whoever serves it.</summary>
    Coming,

    /// <summary>It was active, is to be again, and could not be made (<see cref="ProvisionedFunction.Problem"/>).</summary>
    Failed,
}
